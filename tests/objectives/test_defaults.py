"""The published settings are the defaults, and the factors that are easy to get wrong have a test."""

import inspect
import re
from functools import partial

import jax
import jaxtyping
import numpy as np
import pytest

from sdclr_jax import objectives
from sdclr_jax.errors import ArgumentError
from sdclr_jax.evaluation import collapse
from sdclr_jax.objectives.swav import cross_entropy
from sdclr_jax.objectives.vectors import cosines
from tests.objectives.oracles import COMPILED, inputs

byol, simsiam, barlow_twins, vicreg = (
    jax.jit(f) for f in (objectives.byol, objectives.simsiam, objectives.barlow_twins, objectives.vicreg)
)
RNG = np.random.default_rng(0)
A, B = RNG.standard_normal((2, 8, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "signature"),
    {
        "nt_xent": "(z_a, z_b, temperature)",
        "nt_xent_chunked": "(z_a, z_b, temperature, chunk=1024)",
        "info_nce": "(query, key, queue, temperature)",
        "byol": "(prediction, target)",
        "simsiam": "(prediction, projection)",
        "sinkhorn": "(scores, epsilon=0.05, iterations=3)",
        "swav": "(scores_a, scores_b, temperature=0.1, epsilon=0.05, iterations=3)",
        "barlow_twins": "(z_a, z_b, redundancy=0.0051)",
        "whiten": "(z, shrinkage=0.0)",
        "wmse": "(z_a, z_b, shrinkage=0.0)",
        "wmse_sliced": "(z_a, z_b, key, slice_size, repeats=1, shrinkage=0.0)",
        "vicreg": "(z_a, z_b, invariance=25.0, variance=25.0, covariance=1.0)",
    }.items(),
)
def test_signatures(name, signature):
    found = inspect.signature(getattr(objectives, name))
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
    assert str(inspect.Signature(bare)) == signature


@pytest.mark.parametrize("name", ["info_nce", "byol", "simsiam"])
def test_no_gradient_to_what_the_papers_hold_constant(name):
    _, (first, *others) = COMPILED[name](*inputs(name, dtype=np.float32))
    assert np.abs(first).max() > 1e-2
    assert not any(np.asarray(other).any() for other in others)


def test_equal_and_opposite_vectors():
    assert float(byol(A, 3 * A)) == pytest.approx(0, abs=1e-5)
    assert float(byol(A, -A)) == pytest.approx(4, rel=1e-6)
    assert float(simsiam(A, 3 * A)) == pytest.approx(-1, rel=1e-6)
    assert float(simsiam(A, -A)) == pytest.approx(1, rel=1e-6)


def test_barlow_twins_divides_variance_and_correlation_by_the_batch():
    """By N in both, a view with itself correlates to 1; with N - 1 in one of them it is off by 1/8 in each of 3."""
    assert float(barlow_twins(A, A, redundancy=0.0)) == pytest.approx(0, abs=1e-6)


def test_vicreg_term_by_term():
    """Two dimensions, one the double of the other, over the batch -h, h: variances 2 h^2 and 8 h^2 with N - 1."""
    h = 0.25
    z = np.array([[-h, -2 * h], [h, 2 * h]], np.float32)
    assert float(vicreg(z, z + 1, 1, 0, 0)) == pytest.approx(1)
    gaps = [1 - np.sqrt(2 * h**2 + 1e-4), 1 - np.sqrt(8 * h**2 + 1e-4)]
    assert float(vicreg(z, z, 0, 1, 0)) == pytest.approx(np.mean(gaps))  # a half of each view
    assert float(vicreg(z, 100 * z, 0, 1, 0)) == pytest.approx(np.mean(gaps) / 2)  # no reward beyond 1
    assert float(vicreg(z, z, 0, 0, 1)) == pytest.approx(2 * (2 * (4 * h**2) ** 2) / 2)  # both views, both corners, / D


# The arguments of each that are [N, D].
PAIRS = {
    "nt_xent": ("z_a", "z_b"),
    "nt_xent_chunked": ("z_a", "z_b"),
    "info_nce": ("query", "key"),
    "byol": ("prediction", "target"),
    "simsiam": ("prediction", "projection"),
    "swav": ("scores_a", "scores_b"),
    "barlow_twins": ("z_a", "z_b"),
    "wmse": ("z_a", "z_b"),
    "wmse_sliced": ("z_a", "z_b"),
    "vicreg": ("z_a", "z_b"),
}
OTHERS = {
    "nt_xent": {"temperature": 0.2},
    "nt_xent_chunked": {"temperature": 0.2},
    "info_nce": {"temperature": 0.2, "queue": np.ones((4, 3))},
    "wmse_sliced": {"key": jax.random.key(0), "slice_size": 8},
}


@pytest.fixture
def unchecked():
    """What a user meets, for whom no tool checks the shapes in the signatures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield


def test_the_shapes_in_the_signatures_are_checked():
    with pytest.raises(jaxtyping.TypeCheckError, match="N D"):
        objectives.byol(A, B[:, 0])
    with pytest.raises(jaxtyping.TypeCheckError, match="K D"):
        objectives.info_nce(A, B, np.ones((4, 2), np.float32), 0.2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(
    "shapes", [((8, 3), (1, 3)), ((8, 3), (8, 1)), ((8, 3), (9, 3)), ((2, 8, 3),) * 2, ((8,),) * 2, ((0, 3),) * 2]
)
def test_shapes_that_do_not_fit_are_named_and_not_broadcast(name, shapes):
    first, second = PAIRS[name]
    arrays = {first: np.ones(shapes[0], np.float32), second: np.ones(shapes[1], np.float32)}
    said = f"{first} is {list(shapes[0])} and {second} is {list(shapes[1])}: they must both be [N, D], of one shape"
    with pytest.raises(ArgumentError, match=re.escape(said)):
        getattr(objectives, name)(**arrays, **OTHERS.get(name, {}))


@pytest.mark.usefixtures("unchecked")
def test_other_arguments_that_do_not_fit_are_named():
    with pytest.raises(ArgumentError, match=r"queue is \[4, 2\]: it must be \[K, 3\]"):
        objectives.info_nce(A, B, np.ones((4, 2), np.float32), 0.2)
    with pytest.raises(ArgumentError, match=r"z is \[8\]: it must be \[N, D\]"):
        objectives.whiten(A[:, 0])
    with pytest.raises(ArgumentError, match=r"scores is \[8\]: it must be \[N, D\]"):
        objectives.sinkhorn(A[:, 0])
    for of_one in (collapse.spread, collapse.effective_rank, collapse.uniformity, collapse.prototype_usage):
        with pytest.raises(ArgumentError, match=r"is \[1, 8, 3\]: it must be \[N, D\]"):
            of_one(A[None])
    for of_two in (collapse.alignment, collapse.alignment_ratio, cosines, partial(cross_entropy, temperature=1.0)):
        with pytest.raises(ArgumentError, match=r"is \[8, 3\] and \w+ is \[1, 3\]: they must both be \[N, D\]"):
            of_two(A, B[:1])


@pytest.mark.parametrize(
    "loss",
    [
        vicreg,
        barlow_twins,
        lambda a, b: objectives.whiten(a, shrinkage=0.1),
        lambda a, b: objectives.nt_xent(a, b, 0.2),
        lambda a, b: objectives.nt_xent_chunked(a, b, 0.2),
        collapse.alignment_ratio,
        lambda a, b: collapse.uniformity(a),
    ],
)
def test_one_row_that_would_give_a_number_without_meaning_is_refused(loss):
    with pytest.raises(ArgumentError, match=r"^z\w* is \[1, 3\].* at least 2 rows"):
        loss(A[:1], B[:1])


QUEUE, KEY = np.eye(3, dtype=np.float32), jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: objectives.nt_xent(A, B, 0.0), "temperature is 0.0: it must be above 0"),
        (lambda: objectives.nt_xent(A, B, np.float32(0)), "temperature is 0.0: it must be above 0"),
        (lambda: objectives.nt_xent(A, B, np.int64(0)), "temperature is 0: it must be above 0"),
        (lambda: objectives.nt_xent(A, B, jax.numpy.float32(-1)), "temperature is -1.0: it must be above 0"),
        (lambda: objectives.nt_xent_chunked(A, B, -1.0), "temperature is -1.0"),
        (lambda: objectives.nt_xent_chunked(A, B, 0.2, chunk=0), "chunk is 0"),
        (lambda: objectives.info_nce(A, B, QUEUE, 0.0), "temperature is 0.0"),
        (lambda: objectives.info_nce(A, B, QUEUE[:0], 0.2), "queue is [0, 3]: it must be [K, 3], an entry a row, with"),
        (lambda: objectives.swav(A, B, temperature=0.0), "temperature is 0.0"),
        (lambda: objectives.sinkhorn(A, epsilon=0.0), "epsilon is 0.0"),
        (lambda: objectives.sinkhorn(A[:1]), "scores is [1, 3]: it must be [N, D], a row an image, with at least 2"),
        (lambda: objectives.sinkhorn(A[:, :1]), "scores is [8, 1]: all have the same code of one prototype alone"),
        (lambda: objectives.whiten(A, shrinkage=1.5), "shrinkage is 1.5: it must be from 0 to 1"),
        (lambda: objectives.wmse_sliced(A, B, KEY, slice_size=0), "slice_size is 0"),
        (lambda: objectives.wmse_sliced(A, B, KEY, slice_size=8, repeats=0), "repeats is 0"),
    ],
)
def test_a_setting_that_would_give_a_number_without_meaning_is_refused(call, said):
    with pytest.raises(ArgumentError, match=f"^{re.escape(said)}"):
        call()


def test_codes_of_no_iteration_are_refused():
    for codes in (objectives.sinkhorn, lambda scores, iterations: objectives.swav(A, B, iterations=iterations)):
        with pytest.raises(ArgumentError, match="^iterations is 0: it must be at least 1"):
            codes(A, iterations=0)
