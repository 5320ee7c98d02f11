"""The model card: README.md beside exported weights, in the form that model hubs read."""

import html
import json
import re
from collections.abc import Mapping
from typing import Any

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
        data_license: of the images; '' where it is not known.
        library: that loads the folder from a hub; '' for none.
    """
    view = encoder.view
    head = ["---", "pipeline_tag: image-feature-extraction", *([f"library_name: {library}"] if library else [])]
    head += ["tags: [self-supervised-learning, contrastive-learning, long-tail]", "---", ""]
    started = config.get("model.start_sha256")
    facts = {
        "Encoder": f"{plain(encoder.model['name'])}, {parameters:,} parameters, {encoder.features} features",
        "Fields of the encoder": plain(", ".join(f"{k}={v}" for k, v in encoder.model.items() if k != "name")),
        "Method": f"{plain(config.get('method'))}, seed {plain(config.get('seed'))}, step {step}",
        "Started from": f"weights with the SHA-256 {plain(started)}" if started else "random weights",
        "Data set": plain(config.get("data.name")),
        "Images": f"{trained_on.images}, SHA-256 of their list {plain(trained_on.sha256)}"
        if trained_on
        else "not known",
        "Licence of the images": plain(data_license) if data_license else "unknown",
        "Code": f"sdclr_jax {plain(versions.get('sdclr_jax'))}, commit {plain(versions.get('commit'))}",
        "Hardware": plain(versions.get("hardware", "not known")),
    }
    lines = [*head, f"# {plain(title)}", "", "An image encoder, trained without labels.", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", "## Preprocessing", "", _preprocessing(encoder), "", "## Use", "", usage, "", "## Scores", ""]
    if results is None:
        lines += ["This checkpoint has not been evaluated: `sdclr evaluate` does it."]
    else:
        lines += [
            "Percent, of the frozen encoder on the test images. Many, Medium and Few are means over the classes with "
            "many, medium and few training images; Std is the standard deviation of these three.",
            "",
            "| protocol | metric | All | Many | Medium | Few | Std |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, score in results.protocols.items():
            shares = " | ".join("-" if x is None else f"{100 * x:.2f}" for x in score.summary.values())
            lines.append(f"| {plain(name)} | {plain(score.metric)} | {shares} |")
        classes = ", ".join(
            f"{plain(name)} ({count})"
            for name, count in zip(results.data.class_names[:50], results.data.train_counts, strict=False)
        )
        more = len(results.data.class_names) - 50
        lines += ["", f"Classes, with their training images: {classes}{f' and {more} more' if more > 0 else ''}."]
    lines += [
        "",
        "## Limits",
        "",
        f"For images of {view.height} x {view.width} pixels like those above; nothing is known of others. Scores are "
        "of one run: other seeds differ.",
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
    return f"Images are {colours}: {seen}, divide by 255, subtract the mean {mean}, divide by {std}."
