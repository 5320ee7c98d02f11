"""What to look at in a folder of images, by their features: those that do not belong, labels that look wrong, rare
images, and a few that stand for all. All functions are NumPy on the host."""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FEW, SOME = 5, 0.05  # neighbours that are near, and the share of all images that are not near any more
MOST_NEIGHBOURS = 200
# Robust standard deviations above the median; and the probability of a label, of 1 over the number of classes. Chosen
# on one planted folder and reported on others (experiments/photos.py).
APART = 6.0
UNLIKELY = 0.3
FOLDS = 5
FIT = 16.0  # weight of the mean loss of an image against the penalty on the squared weights
LEAST_OF_CLASS = 5  # images of a class, below which nobody can say what it looks like
_BANDS = (1, 2, 4, 6, 9, 12, 16)  # borders of bands of frequencies, in waves a picture


def appearance(thumbnails: UInt8[np.ndarray, "N S S 3"]) -> Float[np.ndarray, "N 23"]:
    """What a picture looks like whatever it shows: colours, contrast, and how much of it is coarse and how much fine.

    A network learns to pass over these, so its features do not tell that an image is a drawing among photographs.
    """
    pixels = thumbnails.astype(np.float32)
    count, side = pixels.shape[:2]
    gray, saturation = pixels.mean(-1), np.ptp(pixels, axis=-1)
    steps = [np.log1p(np.abs(np.diff(pixels, axis=axis)).mean((1, 2))) for axis in (1, 2)]
    levels = (gray / 16).astype(np.int64).reshape(count, -1) + 16 * np.arange(count)[:, None]
    shares = np.bincount(levels.ravel(), minlength=16 * count).reshape(count, 16) / side**2
    power = np.abs(np.fft.fft2(gray - gray.mean((1, 2), keepdims=True))) ** 2
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side, 1 / side)] * 2))
    bands = [(low <= frequency) & (frequency < high) for low, high in zip(_BANDS, (*_BANDS[1:], side), strict=True)]
    columns = [
        *(pixels.mean((1, 2)), pixels.std((1, 2)), *steps),
        *(saturation.mean((1, 2)), saturation.std((1, 2))),
        *(shares.max(1), stats.entropy(shares, axis=1)),
        *(np.log1p(power[:, band].mean(1)) for band in bands),
    ]
    return np.concatenate([column.reshape(count, -1) for column in columns], axis=1)


def distances(
    features: Float[np.ndarray, "N D"], looks: Float[np.ndarray, "N E"]
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """How far each image is from its `FEW` nearest ones, and how much farther `SOME` of all images are.

    The first is large for an image that is like no other. The second is large for the images of a small group: they
    are near each other and far from the rest. Distances are Euclidean, of the features and the `looks` in coordinates
    of one variance, so that no direction in which all images differ drowns the others.
    """
    x = np.concatenate([_whitened(features), _whitened(looks)], axis=1).astype(np.float32)
    some = min(max(int(SOME * len(x)), FEW + 1), MOST_NEIGHBOURS, len(x) - 1)
    found = NearestNeighbors(n_neighbors=some).fit(x).kneighbors()[0]
    near = found[:, :FEW].mean(axis=1, dtype=np.float64)
    return near, found[:, -1] / np.maximum(found[:, min(FEW, some) - 1], 1e-12)


def _whitened(x: np.ndarray) -> np.ndarray:
    """[N, D] in principal directions, each of variance near 1 unless it had next to none."""
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
    variances, directions = np.linalg.eigh(np.atleast_2d(np.cov(x.T)))
    return x @ directions / np.sqrt(np.maximum(variances, 0) + 0.01)


def above_median(scores: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Robust standard deviations above the median, of the logarithms, since distances are skewed; 0 for all where more
    than half of the scores are the same."""
    logs = np.log(np.maximum(scores, 1e-12))
    from_median = logs - np.median(logs)
    spread = np.median(np.abs(from_median)) / 0.6745  # the standard deviation of a normal distribution
    return from_median / spread if spread > 1e-6 else np.zeros(len(scores))


class LabelIssues(NamedTuple):
    """What a classifier that has not seen an image says of its label."""

    suspect: np.ndarray  # bool [N]: the label looks wrong
    probability: np.ndarray  # float64 [N], of the label; 1 where it is not judged
    suggested: np.ndarray  # int [N]: the likeliest class; the label where it is not judged


def label_issues(
    features: Float[np.ndarray, "N D"],
    labels: Integer[np.ndarray, " N"],
    num_classes: int,
    copies: Integer[np.ndarray, " N"],
) -> LabelIssues:
    """Labels that a logistic regression on the features finds unlikely, by its probability of the label: the
    self-confidence of Northcutt, Jiang and Chuang (Confident Learning, JAIR 2021).

    Each image is judged by a classifier that has seen neither it nor its copies. A label is suspect where another class
    is likelier and the label has less than `UNLIKELY` of an even share.

    Args:
        features: of any scale.
        labels: of the images.
        num_classes: how many classes there are.
        copies: the group of near duplicates that each image is in; -1 for none.

    Classes of fewer than `LEAST_OF_CLASS` images are neither judged nor suggested. Where all images of a class are
    copies of one, none of them is judged.
    """
    suspect, probability, suggested = np.zeros(len(labels), bool), np.ones(len(labels)), labels.copy()
    counts = np.bincount(labels, minlength=num_classes)
    judged = np.flatnonzero(counts[labels] >= LEAST_OF_CLASS)
    classes, y = np.unique(labels[judged], return_inverse=True)
    if len(classes) < 2:
        return LabelIssues(suspect, probability, suggested)
    alone = copies.max(initial=-1) + 1 + np.arange(len(labels))
    together = np.where(copies < 0, alone, copies)[judged]
    count = min(FOLDS, len(np.unique(together)))
    if count < 2:
        return LabelIssues(suspect, probability, suggested)
    shares = np.zeros((len(judged), len(classes)))
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        # Of a class that lies in one fold, since all its images are copies; what is not converged is near enough.
        warnings.simplefilter("ignore")
        for train, test in folds.split(judged, y, together):
            classifier = make_pipeline(StandardScaler(), LogisticRegression(C=FIT / len(train), max_iter=300))
            known = np.unique(y[train])
            if len(known) > 1:
                classifier.fit(features[judged[train]], y[train])
                shares[np.ix_(test, classifier.classes_)] = classifier.predict_proba(features[judged[test]])
            # An image cannot be judged by a classifier that has seen no other of its class, or of its class alone.
            unseen = test if len(known) < 2 else test[~np.isin(y[test], known)]
            shares[unseen] = np.arange(len(classes)) == y[unseen, None]
    probability[judged] = shares[np.arange(len(y)), y]
    best = shares.argmax(axis=1)
    suggested[judged] = classes[best]
    suspect[judged] = (best != y) & (probability[judged] < UNLIKELY / len(classes))
    return LabelIssues(suspect, probability, suggested)


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
