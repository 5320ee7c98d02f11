"""SimCLR and SDCLR side by side on long-tailed digits, several seeds, and what they can show: `make demo`.

    python experiments/digits_demo.py [--out=runs/digits_demo] [--seeds=3] [--config.FIELD=VALUE ...]

Two runs at a time, one a core. Each seed draws its own class order, long tail and weights, the same ones for both
methods. Started again, it goes on where it stopped. Fields given are set in every run. Writes to the folder the report,
`forgotten.csv` (a row for each run and class) and `findings.txt`, which it also prints.

The analysis was fixed before it was known whom these runs forget. Known were their accuracy, and four seeds of an older
commit, measured by experiments/digits_exemplars.py, whose shares were above chance for SDCLR.

- Whom does pruning forget? Cut 90 % of the weights of the last checkpoint by magnitude, estimate the norms' statistics
  again (`sdclr exemplars --against=recalibrated`), and take the tenth of the training images whose features change
  most. Two numbers for each method, means over the seeds:
  - by image: the share of that tenth that belongs to the five rarer classes. Chance: any tenth of the images.
  - by class: the share of a class's images that is in that tenth, mean over the five rarer classes. Chance: any five
    classes, in each seed. Each seed draws at random which classes are rare, so this is a randomisation test of rarity
    itself. It decides, since images of one class are forgotten together.
  Chance is the central 95 % interval of `DRAWS` random draws of all seeds together. The claim is SDCLR's number by
  class; the others stand beside it. Nothing else is tested.
- How many seeds would the accuracy claim take? From the standard deviation of the paired differences on All (full
  linear probe), for a paired t test at the 5 % level with 80 % power: the smallest difference that these seeds can
  show, and the seeds for a difference of 1 point, also at both ends of the 95 % interval of that deviation.
"""

import argparse
import csv
import functools
import pathlib
import subprocess
import textwrap
import time
from collections.abc import Iterable
from typing import NamedTuple

import factors_report
import jobs
import numpy as np
from scipy import optimize, stats

from sdclr_jax import records
from sdclr_jax.evaluation import exemplars
from sdclr_jax.records import Results, Saved, Summary, metrics

METHODS = {"simclr": "SimCLR", "sdclr": "SDCLR"}
PHOTOGRAPHS = jobs.ROOT / "experiments" / "results" / "factors" / "photos.jsonl"
RATE, FRACTION, RARE, DRAWS = 0.9, 0.1, 5, 100_000
LEVEL, POWER, POINTS = 0.05, 0.8, 1.0
NOTE = """\
Both methods have the same encoder, the same three-layer head, the same images and the same number of steps; only the \
second branch differs. What this small run can show: that the whole chain works, from unlabelled long-tailed images to \
scores for frequent and rare classes; whom pruning makes each network forget; and how much scores vary from seed to \
seed. What it cannot show: whether SDCLR is better than SimCLR. There are 369 training images of 8 x 8 pixels, about \
45 test images a class, so that one test image is 2 points of its class; and the authors' gains are for ResNet-18 \
trained 2,000 epochs on 32 x 32 photographs. A difference within the spread is no difference."""


class Forgotten(NamedTuple):
    """A class of a run: how many images it has, and how many of them are among the most changed tenth; a fraction where
    scores tie at its border."""

    method: str
    seed: int
    label: int
    images: int
    forgotten: float


class Chance(NamedTuple):
    """A share, mean over seeds, and the central 95 % interval of what chance gives."""

    share: float
    low: float
    high: float

    @property
    def beyond(self) -> bool:
        return not self.low <= self.share <= self.high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=jobs.on_disk, default=pathlib.Path("runs/digits_demo"))
    parser.add_argument("--seeds", type=jobs.at_least_one, default=3)
    options, fields = parser.parse_known_args()
    began = time.perf_counter()
    names = {f"{method}-{seed}": (method, seed) for seed in range(options.seeds) for method in METHODS}
    directories = jobs.run(
        [
            jobs.Job(name, f"digits_lt.py:{method}", (f"--config.seed={seed}", f"--config.data.seed={seed}", *fields))
            for name, (method, seed) in names.items()
        ],
        options.out,
    )
    if left := [path for path in directories if not _measured(path)]:
        overlap = f"--overlap={options.out.absolute() / 'exemplars_overlap.json'}"
        command = ("exemplars", *left, f"--rates={RATE}", overlap, "--noprogress")
        jobs.sdclr(*command, stdout=subprocess.DEVNULL)  # said in other words below
    rows = [row for path in directories for row in counted(*names[path.name], path)]
    write(rows, options.out / "forgotten.csv")
    scores = {names[path.name]: _all(path) for path in directories}
    findings = "\n\n".join(textwrap.fill(text, 110) for text in (*whom(rows), accuracy(scores), *photographs()))
    (options.out / "findings.txt").write_text(findings + "\n")
    page = options.out / "report.html"
    jobs.report(directories, page.absolute(), f"{NOTE} {' '.join(findings.split())}")
    print(f"\n{findings}\n\n{jobs.minutes_since(began)}. Open {page}")


def _measured(directory: pathlib.Path) -> bool:
    """Whether `sdclr exemplars` has looked at the last checkpoint."""
    try:
        summary = records.read(Summary, directory / "exemplars" / "summary.json", folder=directory)
    except FileNotFoundError:
        return False
    return summary.last.step == records.read(Saved, directory / "saved.json").step


def counted(method: str, seed: int, directory: pathlib.Path) -> list[Forgotten]:
    """The classes of a run, from what `sdclr exemplars` wrote."""
    with (directory / "exemplars" / "exemplars.csv").open(newline="", encoding="utf-8-sig") as file:
        images = list(csv.DictReader(file))
    labels = np.array([int(image["label"]) for image in images])
    belongs = exemplars.membership(np.array([float(image[f"features_{RATE:g}"]) for image in images]), FRACTION)
    return [
        Forgotten(method, seed, label, int(np.sum(labels == label)), float(belongs[labels == label].sum()))
        for label in range(labels.max() + 1)
    ]


def write(rows: list[Forgotten], path: pathlib.Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([Forgotten._fields, *rows])


def read(path: pathlib.Path) -> list[Forgotten]:
    with path.open(newline="") as file:
        return [
            Forgotten(row["method"], *(int(row[x]) for x in ("seed", "label", "images")), float(row["forgotten"]))
            for row in csv.DictReader(file)
        ]


def whom(rows: list[Forgotten]) -> Iterable[str]:
    """The numbers of each method; of SDCLR, which the claim is about, what they say, whichever way they fall."""
    for method, name in METHODS.items():
        runs = [[row for row in rows if (row.method, row.seed) == (method, seed)] for seed in _seeds(rows)]
        image, of_class = by_image(runs), by_class(runs)
        if method != "sdclr":
            verdict = "This is for comparison with SDCLR, and is not tested"
        elif of_class.beyond:
            more = "more" if of_class.share > of_class.high else "less"
            verdict = f"So pruning makes {name} forget rare classes {more} than chance gives"
        elif image.beyond:
            verdict = "Images of one class are forgotten together, so these seeds do not show that rarity is the reason"
        else:
            verdict = "So these seeds show no sign that rare classes are forgotten more"
        yield (
            f"Whom pruning forgets, {name}, {_count(runs)}: cut {RATE:.0%} of the weights, and take the tenth of the "
            f"images whose features change most. The five rarer classes have {image.share:.1%} of it; any tenth of the "
            f"images gives {image.low:.1%} to {image.high:.1%}. It holds {of_class.share:.1%} of the images of a rarer "
            f"class; any five classes give {of_class.low:.1%} to {of_class.high:.1%}. {verdict}."
        ).replace("%", " %")


def _count(runs: list) -> str:
    return f"{len(runs)} seed{'s' if len(runs) > 1 else ''}"


def by_image(runs: list[list[Forgotten]]) -> Chance:
    """Share of the rarer classes in the most changed tenth; chance draws as many images of all in each seed."""
    rng, shares, null = np.random.default_rng(0), [], []
    for run in runs:
        rare, images, taken = _rare(run), sum(row.images for row in run), round(sum(row.forgotten for row in run))
        marked = sum(row.images for row in rare)
        shares.append(sum(row.forgotten for row in rare) / taken)
        null.append(rng.hypergeometric(marked, images - marked, taken, size=DRAWS) / taken)
    return _against(shares, null)


def by_class(runs: list[list[Forgotten]]) -> Chance:
    """Share of a rarer class's images that is in the most changed tenth; chance draws as many classes in each seed."""
    rng, shares, null = np.random.default_rng(0), [], []
    for run in runs:
        rates = np.array([row.forgotten / row.images for row in run])
        shares.append(float(np.mean([row.forgotten / row.images for row in _rare(run)])))
        chosen = rng.permuted(np.tile(rates, (DRAWS, 1)), axis=1)[:, :RARE]
        null.append(chosen.mean(axis=1))
    return _against(shares, null)


def _against(shares: list[float], null: list[np.ndarray]) -> Chance:
    low, high = np.quantile(np.mean(null, axis=0), (LEVEL / 2, 1 - LEVEL / 2))
    # Sums in another order differ in the last digit, which is not beyond chance.
    return Chance(*(round(float(share), 12) for share in (np.mean(shares), low, high)))


def _rare(run: list[Forgotten]) -> list[Forgotten]:
    return sorted(run, key=lambda row: -row.images)[-RARE:]


def _seeds(rows: Iterable[Forgotten]) -> list[int]:
    return sorted({row.seed for row in rows})


def _all(directory: pathlib.Path) -> float | None:
    """All of the full linear probe, in percent; None where it was not evaluated."""
    protocols = records.read(Results, directory / "results.json").protocols
    return 100 * protocols["linear_full"].all if "linear_full" in protocols else None


def accuracy(scores: dict[tuple[str, int], float | None]) -> str:
    """What these seeds can say about the difference on All, from {(method, seed): percent}."""
    seeds = sorted({seed for _, seed in scores})
    if len(seeds) < 2 or None in scores.values():
        return "Accuracy: it takes two seeds or more, with the full linear probe, to see how much differences vary."
    differences = [scores["sdclr", seed] - scores["simclr", seed] for seed in seeds]
    n, sd = len(seeds), float(np.std(differences, ddof=1))
    low, high = (sd * ((n - 1) / stats.chi2.ppf(p, n - 1)) ** 0.5 for p in (1 - LEVEL / 2, LEVEL / 2))
    needed = [seeds_for(POINTS, deviation) for deviation in (sd, low, high)]
    half = stats.t.ppf(1 - LEVEL / 2, n - 1) * sd / n**0.5
    mean = float(np.mean(differences))
    seen = "shows" if abs(mean) > half else "does not show"
    return (
        f"Accuracy on All, full linear probe: SDCLR minus SimCLR is {mean:+.1f} points "
        f"[{mean - half:+.1f}, {mean + half:+.1f}], which {seen} a difference. The {n} paired differences have a "
        f"standard deviation of {sd:.1f}. With {n} seeds a difference must be {smallest(n, sd):.1f} points to be seen "
        f"in four of five such experiments. For {POINTS:g} point it takes {needed[0]} seeds; by what {n} seeds say of "
        f"that deviation, it may be {needed[1]} to {needed[2]}."
    ).replace("-", "\N{MINUS SIGN}")


def power(n: int, effect: float) -> float:
    """Of a paired two-sided t test with n pairs, where the mean is `effect` standard deviations.

    The mean over the deviations that n pairs may have: SciPy's non-central t is not a number for few pairs.
    """
    border = stats.t.ppf(1 - LEVEL / 2, n - 1) * _deviations(n)
    centre = effect * n**0.5
    return float(np.mean(stats.norm.cdf(centre - border) + stats.norm.cdf(-centre - border)))


@functools.cache
def _deviations(n: int) -> np.ndarray:
    """Standard deviations that n values of a normal distribution have, evenly from their own distribution."""
    return np.sqrt(stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, n - 1) / (n - 1))


def smallest(n: int, sd: float) -> float:
    """The smallest difference that n pairs show with that power."""
    return sd * optimize.brentq(lambda effect: power(n, effect) - POWER, 1e-6, 100.0)


def seeds_for(difference: float, sd: float) -> int:
    """How many pairs show a difference with that power."""
    few, enough = 1, 2
    while power(enough, difference / sd) < POWER:
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if power(middle, difference / sd) >= POWER else (middle, enough)
    return enough


def photographs() -> list[str]:
    """The committed result of the experiment on photographs (factors.py), which is not run here."""
    where = "On CIFAR-10 (JPEG copies)-LT, not run here but committed (docs/factors.md):"
    return [f"{where} {factors_report.summary('photos', metrics.lines(PHOTOGRAPHS))}"]


if __name__ == "__main__":
    main()
