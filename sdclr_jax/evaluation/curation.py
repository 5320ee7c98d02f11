"""What to look at in a folder of images, by their features: those that do not belong, labels that look wrong, rare
images, and a few that stand for all. All functions are NumPy on the host."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sdclr_jax.evaluation import knn

KIND = 0.05  # of all images: what is like fewer than these is of a kind of its own
MOST_NEIGHBOURS = 200
APART = 3.5  # robust standard deviations (Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993)
FOLDS = 5
LEAST_OF_CLASS = 5  # images of a class, below which nobody can say what it looks like


def distances(features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " N"]:
    """How far each image is from the twentieth of all images that is nearest to it, the mean of 1 - cosine; of a large
    set from its `MOST_NEIGHBOURS` nearest.

    With so many neighbours, forty foreign images that are like each other are far from the others, too.
    """
    k = min(max(int(np.ceil(KIND * len(features))), 10), MOST_NEIGHBOURS, len(features) - 1)
    return knn.neighbours(features, k).distances.mean(axis=1, dtype=np.float64)


def apart(scores: Float[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    """Which scores are `APART` robust standard deviations above the median: those of the logarithms, since distances
    are skewed. None where more than half of the scores are the same."""
    logs = np.log(np.maximum(scores, 1e-12))
    from_median = logs - np.median(logs)
    spread = np.median(np.abs(from_median)) / 0.6745  # the standard deviation of a normal distribution
    return from_median > APART * spread if spread > 1e-6 else np.zeros(len(scores), bool)


class LabelIssues(NamedTuple):
    """What a classifier that has not seen an image says of its label."""

    suspect: np.ndarray  # bool [N]: the label looks wrong
    score: np.ndarray  # float64 [N]: probability of the likeliest other class less that of the label
    suggested: np.ndarray  # int [N]: the likeliest class


def label_issues(
    features: Float[np.ndarray, "N D"],
    labels: Integer[np.ndarray, " N"],
    num_classes: int,
    copies: Integer[np.ndarray, " N"],
) -> LabelIssues:
    """Confident learning (Northcutt, Jiang and Chuang, JAIR 2021) by logistic regression on the features.

    Each image is judged by a classifier that has seen neither it nor its copies. A label is suspect where another class
    is as likely as it is, on average, for the images that carry its label, and likelier than the label.

    Args:
        features: of any scale.
        labels: of the images.
        num_classes: how many classes there are.
        copies: the group of near duplicates that each image is in; -1 for none.

    Classes of fewer than `LEAST_OF_CLASS` images are neither judged nor suggested.
    """
    suspect, score, suggested = np.zeros(len(labels), bool), np.full(len(labels), -1.0), labels.copy()
    counts = np.bincount(labels, minlength=num_classes)
    judged = np.flatnonzero(counts[labels] >= LEAST_OF_CLASS)
    classes, y = np.unique(labels[judged], return_inverse=True)
    if len(classes) < 2:
        return LabelIssues(suspect, score, suggested)
    alone = copies.max(initial=-1) + 1 + np.arange(len(labels))
    together = np.where(copies < 0, alone, copies)[judged]
    shares = np.zeros((len(judged), len(classes)))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for train, test in folds.split(judged, y, together):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
        classifier.fit(features[judged[train]], y[train])
        shares[np.ix_(test, classifier.classes_)] = classifier.predict_proba(features[judged[test]])
    own = shares[np.arange(len(y)), y]
    usual = np.array([own[y == c].mean() for c in range(len(classes))])
    others = shares.copy()
    others[np.arange(len(y)), y] = -1
    confident = np.where(others >= usual, others, -1)
    suspect[judged] = confident.max(axis=1) > own
    score[judged] = others.max(axis=1) - own
    best = np.where(suspect[judged], confident.argmax(axis=1), others.argmax(axis=1))
    suggested[judged] = classes[np.where(score[judged] > 0, best, y)]
    return LabelIssues(suspect, score, suggested)


def diverse(features: Float[np.ndarray, "N D"], count: int, among: Bool[np.ndarray, " N"]) -> Integer[np.ndarray, " n"]:
    """Rows of a diverse subset: farthest first (Gonzalez, Theoretical Computer Science 1985), by cosine.

    It starts with the image nearest to the mean, and goes on with the one farthest from all it has. So the first n rows
    are the subset of n images, and no image is farther from one of them than twice what the best subset of that size
    would leave.

    Args:
        features: of any length.
        count: images wanted.
        among: those that may be chosen.

    Returns:
        min(`count`, number of `among`) rows.
    """
    rows = np.flatnonzero(among)
    count = min(count, len(rows))
    if not count:
        return rows
    unit = features[rows] / np.maximum(np.linalg.norm(features[rows], axis=1, keepdims=True), 1e-12)
    chosen = [int(np.argmax(unit @ unit.mean(axis=0)))]
    nearest = unit @ unit[chosen[0]]  # cosine to the nearest chosen one
    while len(chosen) < count:
        nearest[chosen[-1]] = np.inf
        chosen.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, unit @ unit[chosen[-1]])
    return rows[chosen]
