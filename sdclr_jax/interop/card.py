"""The model card: README.md beside exported weights, in the form that model hubs read."""

import html
import json
import re
from collections.abc import Mapping
from typing import Any

from sdclr_jax.errors import first_ones
from sdclr_jax.records import EncoderRecord, Results, TrainedOn

_SIGNS = re.compile(r"([\\`*_{}\[\]()#+!|~])")


def plain(text: object) -> str:
    """Text that Markdown and HTML show as it is, on one line: names of data sets and classes come from anywhere.

    >>> plain("a|b <script> [c](d)")
    'a\\\\|b &lt;script&gt; \\\\[c\\\\]\\\\(d\\\\)'
    """
    printable = "".join(sign if sign.isprintable() else " " for sign in str(text))
    return _SIGNS.sub(r"\\\1", html.escape(" ".join(printable.split())))


def card(
    *,
    title: str,
    encoder: EncoderRecord,
    config: Mapping[str, Any],
    step: int,
    trained_on: TrainedOn | None,
    results: Results | None,
    versions: Mapping[str, Any],
    parameters: int,
    usage: str,
    imported: bool = False,
    data_license: str = "",
    library: str = "",
) -> str:
    """The card's text.

    Args:
        title: of the model.
        encoder: what turns images into features.
        config: all fields of the run, by full names.
        step: of the checkpoint.
        trained_on: the images; None where that is not known.
        results: of this checkpoint; None where it was not evaluated.
        versions: what versions.json holds.
        parameters: numbers in the encoder.
        usage: Markdown that says how to load the file.
        imported: whether another program trained the weights, of which nothing but their hash is known.
        data_license: of the images; '' where it is not known.
        library: that loads the folder from a hub; '' for none.
    """
    view = encoder.view
    head = ["---", "pipeline_tag: image-feature-extraction", *([f"library_name: {library}"] if library else [])]
    head += (
        ["---", ""] if imported else ["tags: [self-supervised-learning, contrastive-learning, long-tail]", "---", ""]
    )
    started = config.get("model.start_sha256")
    facts = {
        "Encoder": f"{plain(encoder.model['name'])}, {parameters:,} parameters, {encoder.features} features",
        "Fields of the encoder": plain(", ".join(f"{k}={v}" for k, v in encoder.model.items() if k != "name")),
    }
    code = f"sdclr_jax {plain(versions.get('sdclr_jax'))}, commit {plain(versions.get('commit'))}"
    if imported:
        says = (
            "An image encoder with the weights of another program: how it was trained, and on what, is not known here."
        )
        facts |= {"Weights": f"of another program, SHA-256 {plain(started)}", "Imported by": code}
        facts |= {"Evaluated on": plain(results.data.name)} if results else {}
    else:
        says = f"An image encoder, trained without labels{', starting from other weights' if started else ''}."
        facts |= {
            "Method": f"{plain(config.get('method'))}, seed {plain(config.get('seed'))}, step {step}",
            "Started from": f"weights with the SHA-256 {plain(started)}" if started else "random weights",
            "Data set": plain(config.get("data.name")),
            "Images": f"{trained_on.images}, SHA-256 of their list {plain(trained_on.sha256)}"
            if trained_on
            else "not known",
            "Code": code,
            "Hardware": plain(versions.get("hardware", "not known")),
        }
    facts["Licence of the images"] = plain(data_license) if data_license else "unknown"
    lines = [*head, f"# {plain(title)}", "", says, "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", "## Preprocessing", "", _preprocessing(encoder), "", "## Use", "", usage, "", "## Scores", ""]
    if results is None:
        lines += ["This checkpoint has not been evaluated: `sdclr evaluate` does it."]
    else:
        lines += [
            "Percent, of the frozen encoder on the test images. Many, Medium and Few are means over the classes with "
            "many, medium and few training images; Std is the standard deviation of these three.",
            *_otherwise(encoder, results.seen),
            "",
            "| protocol | metric | All | Many | Medium | Few | Std |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, score in results.protocols.items():
            shares = " | ".join("-" if x is None else f"{100 * x:.2f}" for x in score.summary.values())
            lines.append(f"| {plain(name)} | {plain(score.metric)} | {shares} |")
        of_class = zip(results.data.class_names, results.data.train_counts, strict=False)
        classes = first_ones([f"{plain(name)} ({count})" for name, count in of_class], 50)
        lines += ["", f"Classes, with their training images: {classes}."]
    lines += [
        "",
        "## Limits",
        "",
        f"For images of {view.height} x {view.width} pixels like those above; nothing is known of others."
        + ("" if imported else " Scores are of one run: other seeds differ."),
    ]
    return "\n".join(lines) + "\n"


def _preprocessing(encoder: EncoderRecord) -> str:
    view = encoder.view
    colours = "grey" if view.channels == 1 else "RGB"
    seen = (
        f"resize the shorter side to {encoder.resize} pixels ({encoder.interpolation}), take the middle "
        f"{encoder.crop} x {encoder.crop}"
        if encoder.crop
        else f"{view.height} x {view.width} pixels, whole"
    )
    mean, std = (json.dumps(list(x)) for x in (encoder.mean, encoder.std))
    said = f"Images are {colours}: {seen}, divide by 255, subtract the mean {mean}, divide by {std}."
    if encoder.gray_range:
        black, white = encoder.gray_range
        said += f" In gray images of more than eight bits {black:g} is black and {white:g} white: make them 0 and 255."
    return said


def _otherwise(encoder: EncoderRecord, seen: Mapping[str, Any] | None) -> list[str]:
    """What is said of scores whose images were not preprocessed as the card says. Older versions did not write it."""
    here = {"mean": list(encoder.mean), "std": list(encoder.std)}
    if encoder.crop:
        here |= {"resize": encoder.resize, "crop": encoder.crop, "interpolation": encoder.interpolation}
    seen = seen or here
    other = [f"{plain(name)} {plain(value)}" for name, value in seen.items() if value != here.get(name)]
    if "crop" in here and "crop" not in seen:
        other.append("whole images")
    if not other:
        return []
    made = ", ".join(other)
    return ["", f"These scores were made with another preprocessing than the one above: {made}."]
