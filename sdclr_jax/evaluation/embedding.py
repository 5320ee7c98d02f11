"""A map of the features in two dimensions, to look at: neighbours there are neighbours here, distances mean little.

van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008, as scikit-learn has it.
"""

import hashlib

import numpy as np
from threadpoolctl import threadpool_limits

from sdclr_jax import files
from sdclr_jax.errors import ArgumentError
from sdclr_jax.evaluation import cache
from sdclr_jax.evaluation.features import unit
from sdclr_jax.records import Embedding

METHOD = "t-SNE"
LEAST = 4  # images of a map
LIMIT = 2000  # images on a map: more hide each other, and take longer than the probes
PERPLEXITY = 30.0  # neighbours that each image looks at, fewer where there are few images


def tsne(
    features: np.ndarray, seed: int, limit: int = LIMIT, folder: files.Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of images on a map, by the directions of their features, as the cosine of nearest neighbours sees them.

    Args:
        features: [N, D].
        seed: of the choice of images and of t-SNE: equal ones give equal maps.
        limit: images on the map at most; of more, that many are drawn at random.
        folder: where positions are kept, as `cache.features` keeps features: an equal map is not computed again.

    Returns:
        Indices int [M] of the images on the map, ascending, and their positions float32 [M, 2].

    Raises:
        ArgumentError: fewer than four images, or features that are not finite.
    """
    if len(features) < LEAST:
        raise ArgumentError("features", f"are of {len(features)} images: a map takes at least {LEAST}")
    if not np.isfinite(features).all():
        raise ArgumentError("features", "are not finite, so they have no map: the encoder has diverged")
    rows = np.sort(np.random.default_rng(seed).permutation(len(features))[:limit])
    directions = np.asarray(unit(features[rows].astype(np.float32)))
    if folder is None:
        return rows, _positions(directions, seed)
    content = hashlib.sha256(str(directions.shape).encode() + directions.tobytes()).hexdigest()
    key = {"map": METHOD, "directions": content, "perplexity": _perplexity(len(rows)), "seed": seed}
    return rows, cache.features(folder, key, lambda: _positions(directions, seed))


def _positions(directions: np.ndarray, seed: int) -> np.ndarray:
    """Places float32 [M, 2] of unit vectors [M, D]."""
    from sklearn.manifold import TSNE  # takes a second, which probes need not wait for

    # Principal components, which make a steadier start, take directions that differ, in two dimensions at least.
    spread = np.ptp(directions, axis=0).any() and directions.shape[1] > 1
    model = TSNE(perplexity=_perplexity(len(directions)), init="pca" if spread else "random", random_state=seed)
    # Of several threads sums depend on how many there are, and they wait for each other on busy cores.
    with threadpool_limits(1):
        return model.fit_transform(directions)


def about(
    features: np.ndarray, labels: np.ndarray, seed: int, limit: int = LIMIT, folder: files.Path | None = None
) -> Embedding:
    """The map with the class of each image on it, positions to three decimals.

    Args:
        features: [N, D].
        labels: int [N], places in the class names of results.json.
        seed, limit, folder: as `tsne` takes them.

    Raises:
        ArgumentError: as `tsne`, or labels that are not one class an image.
    """
    if np.shape(labels) != (len(features),):
        raise ArgumentError("labels", "must be one class an image: images with any number of attributes have no map")
    rows, positions = tsne(features, seed, limit, folder)
    points = tuple(
        (*(round(float(x), 3) for x in position), int(label))
        for position, label in zip(positions, labels[rows], strict=True)
    )
    settings = {"of": len(features), "perplexity": _perplexity(len(rows)), "metric": "cosine", "seed": seed}
    return Embedding(method=METHOD, settings=settings, images=len(rows), points=points)


def _perplexity(images: int) -> float:
    return min(PERPLEXITY, (images - 1) / 3)
