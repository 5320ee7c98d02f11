"""How fast cached features are evaluated, beside scikit-learn on the same features, in one run and in turns.

    python experiments/evaluation_speed.py [--out=FILE.json] [--rounds=2] [--threads=1] [--train=50000] [--test=10000]

50,000 + 10,000 features of 512 numbers, 10 classes: correlated, of a decaying spectrum, cut off below as an encoder's
are by its last ReLU, and not separable. The logistic probe over 10 values of l2, its score on validation images
included, stands against scikit-learn's LogisticRegression (L-BFGS) on the standardised features, a fit for each value.
Each of its losses must lie within 1e-4 of ours: with its default tolerance, 1e-4, one of four on 10,000 features was
1.1e-4 off, so it has half of that. Nearest neighbours stand against KNeighborsClassifier (brute force, cosine) with the
same weights.

`--threads` is what scikit-learn's products of matrices may take: two threads can be slower than one, so see which is
faster. Ours has all cores.
"""

import argparse
import json
import pathlib
import resource
import statistics
import sys
import time

import numpy as np
import threadpoolctl
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from tabulate import tabulate

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from sdclr_jax.evaluation import knn, probe
from sdclr_jax.run import versions

CLASSES, DIMENSIONS = 10, 512
L2 = tuple(np.logspace(-6, -1, 10).tolist())
K, TEMPERATURE = 200, 0.1


def make_features(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [count, 512] and labels int [count]; each seed draws from the same law."""
    law, rng = np.random.default_rng(0), np.random.default_rng((1, seed))
    mixture = np.arange(1, DIMENSIONS + 1)[:, None] ** -0.75 * law.normal(size=(DIMENSIONS, DIMENSIONS))
    mixture /= np.linalg.norm(mixture, axis=0)
    centres = 0.2 * law.normal(size=(CLASSES, DIMENSIONS))
    labels = rng.integers(0, CLASSES, count)
    hidden = rng.normal(size=(count, DIMENSIONS)) + centres[labels]
    return np.maximum(hidden @ mixture - 0.3, 0).astype(np.float32), labels


def timed(function) -> tuple[dict, object]:
    """Seconds on the clock and of all threads, and what the function gives."""
    wall, processor = time.perf_counter(), time.process_time()
    result = function()
    return {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}, result


def our_probe(train, test) -> list[dict]:
    """A fit for each l2."""
    fitted = probe.logistic(*train, *test, num_classes=CLASSES, l2=L2)
    return [
        {"l2": x.l2, "loss": x.loss, "iterations": x.iterations, "score": x.validation_score} for x in fitted.history
    ]


def sklearn_probe(train, test) -> list[dict]:
    mean, std = train[0].mean(axis=0, dtype=np.float64), train[0].std(axis=0, dtype=np.float64)
    features, unseen = (((x - mean) / std).astype(np.float32) for x in (train[0], test[0]))
    fits = []
    for l2 in L2:
        model = LogisticRegression(C=1 / (l2 * len(features)), tol=5e-5, max_iter=10_000).fit(features, train[1])
        fits.append(
            {"l2": l2, "iterations": int(model.n_iter_[0]), "score": model.score(unseen, test[1]), "model": model}
        )
    return fits


def sklearn_losses(train, fits: list[dict]) -> list[float]:
    """What the probe minimises, in float64, at scikit-learn's minima; not part of what is timed."""
    features = (train[0] - train[0].mean(axis=0, dtype=np.float64)) / train[0].std(axis=0, dtype=np.float64)
    losses = []
    for fit in fits:
        kernel = fit["model"].coef_.astype(np.float64).T
        log_probabilities = log_softmax(features @ kernel + fit["model"].intercept_, axis=1)
        cross_entropy = -log_probabilities[np.arange(len(features)), train[1]].mean()
        losses.append(float(cross_entropy + fit["l2"] / 2 * np.sum(kernel**2)))
    return losses


def our_neighbours(train, test) -> np.ndarray:
    return knn.predict(*train, test[0], k=K, temperature=TEMPERATURE, num_classes=CLASSES)


def sklearn_neighbours(train, test) -> np.ndarray:
    def weights(distances):
        return np.exp((1 - distances) / TEMPERATURE)

    model = KNeighborsClassifier(K, weights=weights, algorithm="brute", metric="cosine")
    return model.fit(*train).predict(test[0])


def measure(train, test, rounds: int, threads: int) -> dict:
    """Times of each, a list over the rounds, and how well the results agree. Ours is called once more, to compile."""
    times = {name: [] for name in ("probe", "probe_sklearn", "neighbours", "neighbours_sklearn")}
    first_probe, ours = timed(lambda: our_probe(train, test))
    peak = {"ours_mb": peak_megabytes()}
    first_neighbours, _ = timed(lambda: our_neighbours(train, test))
    for _ in range(rounds):
        with threadpoolctl.threadpool_limits(threads):
            seconds, theirs = timed(lambda: sklearn_probe(train, test))
        times["probe_sklearn"].append(seconds)
        times["probe"].append(timed(lambda: our_probe(train, test))[0])
        with threadpoolctl.threadpool_limits(threads):
            seconds, their_classes = timed(lambda: sklearn_neighbours(train, test))
        times["neighbours_sklearn"].append(seconds)
        seconds, our_classes = timed(lambda: our_neighbours(train, test))
        times["neighbours"].append(seconds)
    peak["all_mb"] = peak_megabytes()
    fits = [
        {"l2": a["l2"], "loss": a["loss"], "loss_sklearn": loss, "difference": loss - a["loss"]}
        | {key: a[key] for key in ("iterations", "score")}
        | {f"{key}_sklearn": b[key] for key in ("iterations", "score")}
        for a, b, loss in zip(ours, theirs, sklearn_losses(train, theirs), strict=True)
    ]
    return {
        "times": {"probe_compiling": [first_probe], "neighbours_compiling": [first_neighbours]} | times,
        "fits": fits,
        "largest_difference": max(abs(fit["difference"]) for fit in fits),
        "neighbours_agree": float(np.mean(our_classes == their_classes)),
        "peak": peak,
    }


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def summary(result: dict) -> str:
    rows = [
        [name, statistics.median(x["seconds"] for x in xs), statistics.median(x["processor_seconds"] for x in xs)]
        for name, xs in result["times"].items()
    ]
    fits = [list(fit.values()) for fit in result["fits"]]
    return "\n\n".join(
        [
            tabulate(rows, ("median over rounds", "seconds", "seconds of all threads"), floatfmt=".1f"),
            tabulate(fits, list(result["fits"][0]), floatfmt=("g", ".6f", ".6f", ".1e", "g", ".4f", "g", ".4f")),
            f"largest difference of a loss: {result['largest_difference']:.1e}; "
            f"nearest neighbours agree on {100 * result['neighbours_agree']:.2f} % of the images",
        ]
    )


def main() -> None:
    from jobs import on_disk

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=on_disk, default=pathlib.Path("evaluation_speed.json"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--train", type=int, default=50_000)
    parser.add_argument("--test", type=int, default=10_000)
    options = parser.parse_args()
    train, test = make_features(options.train), make_features(options.test, seed=1)
    result = measure(train, test, options.rounds, options.threads)
    result["settings"] = vars(options) | {"out": str(options.out), "k": K, "temperature": TEMPERATURE}
    result["versions"] = versions.current()
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(summary(result))
    if result["largest_difference"] > 1e-4:
        sys.exit("The two do not minimise the same: no comparison.")


if __name__ == "__main__":
    main()
