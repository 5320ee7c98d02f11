"""What experiments/factors.py prints and writes: its plan, and the tables and the picture of its results."""

import csv
import json
import pathlib
from collections import Counter
from typing import Any

import ledger
import matplotlib as mpl
import numpy as np
from factors_analysis import (
    CHANCE,
    LEVEL,
    PRIMARY,
    RESPONSES,
    Effect,
    Sorted,
    collapsed,
    effects,
    in_arm_model,
    in_factor_model,
    residuals,
    smallest_seen,
    sort,
)
from factors_design import LADDER, SCALES, Run, runs
from matplotlib.figure import Figure
from tabulate import tabulate

# Scores of factors_statistics.py, in its order: title, factor and digits here.
RESCORED = {
    "logistic.all": ("All", 100, 1),
    "knn.all": ("k-NN All", 100, 1),
    "features.effective_rank": ("effective rank", 1, 1),
}


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
        f"fit by {lack} (standard deviations)."
    )


def analyse(scale: str, records: list[dict[str, Any]], out: pathlib.Path, page: pathlib.Path | None) -> str:
    """Write SCALE_effects.json and SCALE.svg, and the tables to their place on a page, if there is one, or else to
    SCALE.md; returns these."""
    tables = (rows_of(out / f"{scale}_{name}.csv") for name in ("checks", "statistics"))
    text, found = report(scale, records, *tables)
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
        draw(next(iter(found.values())), out / f"{scale}.svg", scale)
    return text


def _finite(effect: dict[str, Any]) -> dict[str, Any]:
    """As JSON has it: null for what is not tested."""
    return {name: None if isinstance(x, float) and np.isnan(x) else x for name, x in effect.items()}


def conclusion(table: list[Effect]) -> str:
    """What the tests say of the primary response, in sentences; only when all runs have ended."""
    own = [e for e in table if not np.isnan(e.holm)]
    seen = sorted((e for e in own if e.holm < LEVEL), key=lambda e: -abs(e.estimate))
    lines = [f"{len(own)} differences on All were tested; {len(seen)} are distinguished from 0 after Holm, at 5 %."]
    lines += [f"- {e.name}: {_interval(e)} points, p {e.holm:.2g}" for e in seen]
    if rest := [e for e in own if e.holm >= LEVEL]:
        farthest = max(rest, key=lambda e: max(-e.low, e.high))
        lines += ["- not distinguished, with what the interval leaves open: "]
        lines[-1] += "; ".join(f"{e.name} {_interval(e)}" for e in rest)
        reach = max(-farthest.low, farthest.high)
        lines += [f"- of these the interval that reaches farthest leaves {reach:.1f} points open: {farthest.name}"]
    return "\n".join(lines)


def points(rows: list[dict[str, Any]], score: str) -> dict[tuple[int, str], float]:
    return {(row["block"], row["arm"]): 100 * row["scores"][score] for row in rows if score in row["scores"]}


def rows_of(path: pathlib.Path) -> list[dict[str, str]]:
    """What factors_check.py or factors_statistics.py has written; nothing where it has not."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def report(
    scale: str,
    records: list[dict[str, Any]],
    checked: list[dict[str, str]] | None = None,
    rescored: list[dict[str, str]] | None = None,
) -> tuple[str, dict[str, list[Effect]]]:
    """The tables of a scale as Markdown, and the effects by response: of the blocks of which every run has ended.
    `checked` and `rescored` are what `rows_of` gives."""
    design, of = runs(scale), sort(scale, records)
    ended = {(row["block"], row["arm"]) for row in (*of.used, *of.diverged)}
    whole = sorted({run.block for run in design} - {run.block for run in design if run.key not in ended})
    interim = len(ended) < len(design)
    used, diverged = ([row for row in rows if row["block"] in whole] for rows in (of.used, of.diverged))
    found = {name: effects(design, points(used, score)) for name, score in RESPONSES.items()}
    found = {name: table for name, table in found.items() if table}
    sick = [f"block {row['block']} {row['arm']}" for row in of.diverged]
    flat = [
        f"block {row['block']} {row['arm']} (effective rank {row['scores']['features.effective_rank']:.1f})"
        for row in of.used
        if collapsed(row)
    ]
    lines = [
        f"{len(ended)} of {len(design)} runs have ended"
        + (
            f", and {len(whole)} of {len({run.block for run in design})} blocks. **In progress:** no conclusion is "
            "drawn before the last run, and what stands here is interim."
            if interim
            else "."
        )
        + f" {len(of.diverged)} diverged"
        + (f": {', '.join(sick)}." if sick else ".")
        + (f" Collapsed as they were scored, and by the rule kept: {', '.join(flat)}." if flat else "")
    ]
    if of.used:
        facts = {
            name: Counter(known(str(row[name])) for row in of.used)
            for name, known in (("commit", _short), ("data", ledger.named), ("jax", str), ("hardware", str))
        }
        said = "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in facts.items())
        hours = sum(row["cpu_seconds"] for row in of.used) / 3600
        lines.append(f"The runs: {said}; {hours:.1f} CPU hours.")
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
    if checked and not interim:
        lines.append(f"**How far the differences depend on the model**\n\n{_checked(found['All'], checked)}")
        lines.append(f"**Explored, not tested: the rate by what is cut**\n\n{_explored(checked)}")
    if used and rescored:
        title = "Explored, not tested: as recorded, and with statistics of the dense branch's own views"
        lines.append(f"**{title}**\n\n{_rescored(of, rescored)}")
    if used:
        lines.append(f"**Means of the arms that every block has**\n\n{_means(used)}")
    return "\n\n".join(lines) + "\n", found


def _short(commit: str) -> str:
    return commit[:12]


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


def _checked(table: list[Effect], rows: list[dict[str, str]]) -> str:
    """The tested differences under each model that was tried."""
    names = list(dict.fromkeys(row["check"] for row in rows if row["check"] != "explored"))
    by = {(row["check"], row["name"]): row for row in rows}
    lines = [
        [e.name, f"{_interval(e)}, p {e.holm:.2g}", *(_cell(by.get((check, e.name))) for check in names)]
        for e in table
        if not np.isnan(e.holm)
    ]
    headers = ["difference, points of All", "as designed", *names]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def _explored(rows: list[dict[str, str]]) -> str:
    by = {tuple(row["name"].split(", ")): row for row in rows if row["check"] == "explored"}
    rates = dict.fromkeys(rate for _, rate in by)
    table = [[cut, *(_cell(by[cut, rate]) for rate in rates)] for cut in dict.fromkeys(cut for cut, _ in by)]
    return tabulate(table, ["cut, points of All", *rates], tablefmt="github", disable_numparse=True)


def _rescored(of: Sorted, rows: list[dict[str, str]]) -> str:
    """Scores with the recorded statistics and with the dense branch's own, by norms and by what is cut."""
    recorded = {(row["block"], row["arm"]): row["scores"] for row in of.used}
    again = {key: row for row in rows if (key := (int(row["block"]), row["arm"])) in recorded}
    groups: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for run in runs(of.used[0]["scale"]):
        if run.key in again:
            x = run.arm.levels
            cut = f"{100 * x.rate:g} %, {x.criterion}" if x.rate else "nothing"
            groups.setdefault((x.norms, cut), []).append(run.key)
    table = []
    for (norms, cut), keys in sorted(groups.items(), reverse=True):
        cells = []
        for score, (_, factor, digits) in RESCORED.items():
            before, after = (
                factor * np.mean([float(of_run[key][score]) for key in keys]) for of_run in (recorded, again)
            )
            cells.append(f"{before:.{digits}f} to {after:.{digits}f}")
        table.append([norms, cut, str(len(keys)), *cells])
    headers = ["norms", "cut", "n", *(title for title, _, _ in RESCORED.values())]
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def _cell(row: dict[str, str] | None) -> str:
    if row is None:
        return ""
    estimate, low, high = (float(row[name]) for name in ("estimate", "low", "high"))
    holm = f", p {float(row['holm']):.2g}" if row["holm"] else ""
    return f"{estimate:+.1f} [{low:+.1f}, {high:+.1f}]".replace("-", "−") + holm


def summary(scale: str, records: list[dict[str, Any]]) -> str:
    """How far a scale is, and what SDCLR changes there, in sentences."""
    text, found = report(scale, records)
    progress = text.partition(" diverged")[0].rpartition(" ")[0].replace("**", "")
    steps = [f"{e.name} {_interval(e)} points of All" for e in found.get("All", ()) if e.family == "ladder"]
    so_far = "So far, " if "In progress" in progress else ""
    return " ".join([progress, *([f"{so_far}{'; '.join(steps)}."] if steps else [])])


def _table(found: dict[str, list[Effect]], family: str, interim: bool) -> str:
    names = [e.name for e in next(iter(found.values()), []) if e.family == family]
    by = {response: {e.name: e for e in table} for response, table in found.items()}
    rows = []
    for name in names:
        cells = [_interval(by[response].get(name)) for response in by]
        first = by[next(iter(by))][name]
        p = "" if np.isnan(first.holm) else f"{first.holm:.2g}"
        rows.append([name, *cells, *([] if interim else [p])])
    header = ["difference, points", *by, *([] if interim else ["p of All, Holm"])]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True) if rows else ""


def _interval(effect: Effect | None) -> str:
    if effect is None:
        return ""
    text = f"{effect.estimate:+.1f} [{effect.low:+.1f}, {effect.high:+.1f}]"
    return text.replace("-", "−")


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


def draw(table: list[Effect], path: pathlib.Path, scale: str) -> None:
    """Each difference with its interval, those of a family together."""
    mpl.rcParams |= {"svg.hashsalt": "factors", "font.size": 11}
    figure = Figure(figsize=(8, 0.36 * len(table) + 1), layout="constrained")
    axes = figure.subplots()
    colours = {"factor": "#0072b2", "ladder": "#d55e00", "premise": "#009e73"}
    for i, e in enumerate(table):
        axes.plot([e.low, e.high], [-i, -i], color=colours[e.family], linewidth=2)
        axes.plot(e.estimate, -i, "o", color=colours[e.family])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks([-i for i in range(len(table))], [e.name for e in table])
    axes.set_xlabel(f"points of All, {scale}; 95 % intervals")
    figure.savefig(path, metadata={"Date": None})
