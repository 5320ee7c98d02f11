"""What experiments/factors.py prints and writes: its plan, and the tables and the picture of its results."""

import json
import pathlib
from collections import Counter
from typing import Any

import factors_explored
import ledger
import matplotlib as mpl
import numpy as np
from factors_analysis import (
    CHANCE,
    LEVEL,
    PRIMARY,
    RESPONSES,
    Effect,
    collapsed,
    effects,
    in_arm_model,
    in_factor_model,
    progress,
    residuals,
    sort,
)
from factors_design import LADDER, SCALES, Run, runs
from factors_explored import Rows, interval
from factors_power import false_alarms, smallest_seen
from matplotlib.figure import Figure
from tabulate import tabulate

TWO_LEVELS = ("norms", "head", "gradient")  # factors that vary within a cell


def plan(scale: str, done: set[tuple[int, str]]) -> str:
    """What is run, what it costs by what was measured, and the smallest differences that the design sees; `done` are
    the runs, by block and arm, that are recorded."""
    s, rows, left = SCALES[scale], [], 0.0
    for run in runs(scale):
        # Without the gradient, one of four passes of the network is left out; an arm of the premise has fewer images.
        passes = 0.75 if run.arm.levels and run.arm.levels.gradient == "off" else 1.0
        images = s.images * (0.9 if run.arm.without else 1.0)
        seconds = s.overhead + passes * images * s.fields["epochs"] * s.milliseconds / 1000
        left += 0 if run.key in done else seconds
        kinds = ("fraction" if in_factor_model(run) else "", "ladder or premise" if in_arm_model(run) else "")
        rows.append([run.block, run.arm.name, " and ".join(filter(None, kinds)), f"{seconds:.0f}", run.key in done])
    table = tabulate(rows, ["block", "arm", "part", "CPU s", "recorded"], tablefmt="github")
    sizes = smallest_seen(scale, s.blocks)
    power = tabulate(
        [[name, f"{size:.2f}"] for name, size in sizes.items()],
        ["difference", "smallest seen, points of All"],
        tablefmt="github",
        disable_numparse=True,
    )
    within, lack = s.noise
    return (
        f"{table}\n\n{len(rows)} runs; {left / 3600:.1f} CPU hours for those that are not recorded.\n\n{power}\n\n"
        f"With a power of 80 % after Holm, if a repeated run varies by {within} points and what main effects do not "
        f"fit by {lack} (standard deviations). {_false_alarms(scale)}"
    )


def _false_alarms(scale: str) -> str:
    shares = [100 * x for name, x in false_alarms(scale).items() if not name.startswith(TWO_LEVELS)]
    return (
        "If all of what main effects do not fit lies between cells (the runs of a block with one rate, criterion and "
        "refresh), and no factor has an effect, then a difference of these three factors has an interval without 0 in "
        f"{min(shares):.0f} to {max(shares):.0f} % of experiments, not in 5 %."
    )


def analyse(scale: str, records: list[dict[str, Any]], out: pathlib.Path, page: pathlib.Path | None) -> str:
    """Write SCALE_effects.json and SCALE.svg, and the tables to their place on a page, if there is one, or else to
    SCALE.md; returns these."""
    text, found = report(scale, records, factors_explored.read(out, scale))
    if page:
        before, _, rest = page.read_text().partition(f"<!-- {scale} -->\n")
        _, end, after = rest.partition(f"<!-- end of {scale} -->\n")
        shown = f"\n![Effects with their intervals](../experiments/results/factors/{scale}.svg)\n\n" if found else "\n"
        page.write_text(f"{before}<!-- {scale} -->\n\n{text}{shown}{end}{after}")
    else:
        (out / f"{scale}.md").write_text(text)
    tables = {response: [_finite(e._asdict()) for e in table] for response, table in found.items()}
    (out / f"{scale}_effects.json").write_text(json.dumps(tables, indent=1, allow_nan=False) + "\n")
    if found:
        far = progress(scale, sort(scale, records))
        interim = f"; interim, {len(far.whole)} of {SCALES[scale].blocks} blocks" if far.interim else ""
        draw(next(iter(found.values())), out / f"{scale}.svg", f"points of All, {scale}; 95 % intervals{interim}")
    return text


def _finite(effect: dict[str, Any]) -> dict[str, Any]:
    """As JSON has it: null for what is not tested."""
    return {name: None if isinstance(x, float) and np.isnan(x) else x for name, x in effect.items()}


def conclusion(table: list[Effect]) -> str:
    """What the tests say of the primary response, in sentences; only when all runs have ended."""
    own = [e for e in table if not np.isnan(e.holm)]
    seen = sorted((e for e in own if e.holm < LEVEL), key=lambda e: -abs(e.estimate))
    are = "is" if len(seen) == 1 else "are"
    lines = [f"{len(own)} differences on All were tested; {len(seen)} {are} distinguished from 0 after Holm, at 5 %."]
    lines += [f"- {e.name}: {interval(e)} points, p {e.holm:.2g}" for e in seen]
    rest = [e for e in own if e.holm >= LEVEL]
    alone = [e for e in rest if e.low > 0 or e.high < 0]
    if alone:
        said = "not distinguished after Holm, though its own interval excludes 0, so nothing is concluded"
        lines += [f"- {e.name}: {interval(e)} points, p {e.holm:.2g}: {said}" for e in alone]
    if open_ones := [e for e in rest if e not in alone]:
        lines += ["- not distinguished, with what the interval leaves open: "]
        lines[-1] += "; ".join(f"{e.name} {interval(e)}" for e in open_ones)
    if rest:
        farthest = max(rest, key=lambda e: max(-e.low, e.high))
        reach = max(-farthest.low, farthest.high)
        which = "all that are not distinguished" if alone else "these"
        lines += [f"- of {which} the interval that reaches farthest leaves {reach:.1f} points open: {farthest.name}"]
    return "\n".join(lines)


def points(rows: list[dict[str, Any]], score: str) -> dict[tuple[int, str], float]:
    return {(row["block"], row["arm"]): 100 * row["scores"][score] for row in rows if score in row["scores"]}


def report(
    scale: str, records: list[dict[str, Any]], beside: dict[str, Rows] | None = None
) -> tuple[str, dict[str, list[Effect]]]:
    """The tables of a scale as Markdown, and the effects by response: of the blocks of which every run has ended.
    `beside` is what `factors_explored.read` gives."""
    design, of = runs(scale), sort(scale, records)
    ended, cannot, whole, interim = progress(scale, of)
    beside = beside or {}
    used, diverged = ([row for row in rows if row["block"] in whole] for rows in (of.used, of.diverged))
    found = {name: effects(design, points(used, score)) for name, score in RESPONSES.items()}
    found = {name: table for name, table in found.items() if table}
    sick = _named([(row["block"], row["arm"]) for row in of.diverged])
    flat = [
        f"block {row['block']} {row['arm']} (effective rank {row['scores']['features.effective_rank']:.1f})"
        for row in of.used
        if collapsed(row)
    ]
    lines = [
        f"{len(ended)} of {len(design)} runs have ended"
        + (f", and {len(cannot)} cannot be made, as their blocks have no SimCLR: {_named(cannot)}" if cannot else "")
        + (
            f", and {len(whole)} of {SCALES[scale].blocks} blocks. **In progress:** no conclusion is drawn before the "
            "last run, and what stands here is interim."
            if interim
            else "."
        )
        + f" {len(of.diverged)} diverged"
        + (f": {sick}." if sick else ".")
        + (f" Collapsed as they were scored, and by the rule kept: {', '.join(flat)}." if flat else "")
    ]
    if of.used:
        facts = {"commit": {str(row["commit"])[:12] for row in of.used}}
        # All that are used have the pixels of the first, whatever archive they were packed into.
        facts["data"] = {ledger.named(str(of.used[0]["data"]))}
        for name in ("jax", "hardware"):
            counts = Counter(str(row[name]) for row in of.used)
            facts[name] = {f"{x} ({count} runs)" if len(counts) > 1 else x for x, count in counts.items()}
        said = "; ".join(f"{name} {' and '.join(sorted(values))}" for name, values in facts.items())
        hours = sum(row["cpu_seconds"] for row in of.used) / 3600
        lines.append(f"The runs: {said}; at least {hours:.1f} CPU hours (a resumed run counts from there).")
    if found and interim:
        lines.append(
            "Until all six blocks are there, the gradient overlaps with norms x head, and the refresh with rate x what "
            "is cut. With blocks 1 to 3 alone the overlap is complete."
        )
    if found and not interim:
        lines += [conclusion(found["All"]), _noise(scale, design, used)]
    if of.left_out:
        count = "1 record is" if len(of.left_out) == 1 else f"{len(of.left_out)} records are"
        lines.append(f"{count} left out: {'; '.join(of.left_out)}.")
    for family, title in (
        ("factor", "Main effects"),
        ("ladder", "From SimCLR to SDCLR, step by step"),
        ("premise", "The premise"),
    ):
        if table := _table(found, family, interim):
            lines.append(f"**{title}**\n\n{table}")
    if used and diverged:
        at_chance = points(used, PRIMARY) | {(row["block"], row["arm"]): CHANCE for row in diverged}
        again = {"All": effects(design, at_chance)}
        both = (table for family in ("factor", "ladder", "premise") if (table := _table(again, family, interim)))
        lines.append("**The same with chance as the score of runs that diverged**\n\n" + "\n\n".join(both))
    if (checked := beside.get("checks")) and not interim:
        by_model = factors_explored.by_model(found["All"], checked)
        lines.append(f"**How far the differences depend on the model**\n\n{by_model}")
        by_rate = factors_explored.rate_by_criterion(checked)
        lines.append(f"**Explored, not tested: the rate by what is cut**\n\n{by_rate}")
    for name, title, table_of in (
        ("statistics", "as recorded, and with statistics of the dense branch's own views", factors_explored.rescored),
        ("forgotten", "the tenth of the images that pruning makes SimCLR forget, by class", factors_explored.forgotten),
    ):
        if of.used and (rows := beside.get(name)):
            lines.append(f"**Explored, not tested: {title}**\n\n{table_of(of, rows)}")
    if used:
        lines.append(f"**Means of the arms that every block has**\n\n{_means(used)}")
    return "\n\n".join(lines) + "\n", found


def _named(keys: list[tuple[int, str]]) -> str:
    return ", ".join(f"block {block} {arm}" for block, arm in keys)


def _noise(scale: str, design: list[Run], used: list[dict[str, Any]]) -> str:
    """What the models leave, beside what the design assumed of it."""
    within, lack = SCALES[scale].noise
    assumed, seen = (float(np.hypot(within, lack)), within), residuals(design, points(used, PRIMARY))
    kept = [row for row in used if not collapsed(row)]
    without = residuals(design, points(kept, PRIMARY))
    return (
        f"Standard deviation of what the models leave: {seen[0]:.2f} points in the fraction, {seen[1]:.2f} in ladder "
        f"and premise. The design assumed {assumed[0]:.2f} and {assumed[1]:.2f}, so the smallest differences that it "
        f"could find are {seen[0] / assumed[0]:.1f} and {seen[1] / assumed[1]:.1f} times those of its table."
        + ("" if len(kept) == len(used) else f" Without what collapsed: {without[0]:.2f} and {without[1]:.2f} points.")
    )


def summary(scale: str, records: list[dict[str, Any]]) -> str:
    """How far a scale is, and what SDCLR changes there, in sentences."""
    text, found = report(scale, records)
    said = text.partition(" diverged")[0].rpartition(" ")[0].replace("**", "")
    interim = "In progress" in said
    steps = [
        f"{e.name} {interval(e)} points of All{'' if interim else _verdict(e)}"
        for e in found.get("All", ())
        if e.family == "ladder"
    ]
    so_far = "So far, " if interim else ""
    return " ".join([said, *([f"{so_far}{'; '.join(steps)}."] if steps else [])])


def _verdict(effect: Effect) -> str:
    """What the test says, in brackets."""
    if np.isnan(effect.holm):
        return " (not tested)"
    return f" ({'' if effect.holm < LEVEL else 'not '}distinguished from 0 after Holm)"


def _table(found: dict[str, list[Effect]], family: str, interim: bool) -> str:
    names = [e.name for e in next(iter(found.values()), []) if e.family == family]
    by = {response: {e.name: e for e in table} for response, table in found.items()}
    rows = []
    for name in names:
        cells = [interval(by[response].get(name)) for response in by]
        first = by[next(iter(by))][name]
        p = "" if np.isnan(first.holm) else f"{first.holm:.2g}"
        rows.append([name, *cells, *([] if interim else [p])])
    header = ["difference, points", *by, *([] if interim else ["p of All, Holm"])]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True) if rows else ""


def _means(used: list[dict[str, Any]]) -> str:
    rows = []
    for arm in [*(arm.name for arm in LADDER), "without-forgotten", "without-random"]:
        own = [row for row in used if row["arm"] == arm]
        cells = []
        for score in RESPONSES.values():
            values = [100 * row["scores"][score] for row in own]
            spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.1f}{spread}" if values else "")
        rows.append([arm, len(own), *cells])
    return tabulate(rows, ["arm", "n", *RESPONSES], tablefmt="github", disable_numparse=True)


def draw(table: list[Effect], path: pathlib.Path, label: str) -> None:
    """Each difference with its interval, those of a family together; `label` is of their axis."""
    mpl.rcParams |= {"svg.hashsalt": "factors", "font.size": 11}
    figure = Figure(figsize=(8, 0.36 * len(table) + 1), layout="constrained")
    axes = figure.subplots()
    colours = {"factor": "#0072b2", "ladder": "#d55e00", "premise": "#009e73"}
    for i, e in enumerate(table):
        axes.plot([e.low, e.high], [-i, -i], color=colours[e.family], linewidth=2)
        axes.plot(e.estimate, -i, "o", color=colours[e.family])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks([-i for i in range(len(table))], [e.name for e in table])
    axes.set_xlabel(label)
    figure.savefig(path, metadata={"Date": None})
