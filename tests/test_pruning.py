import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdclr_jax import parallel, pruning, trees
from sdclr_jax.errors import ArgumentError

RNG = np.random.default_rng(0)
WEIGHTS = {
    "encoder": {
        "stem": {"kernel": jnp.asarray(RNG.standard_normal((3, 3, 2, 4)), jnp.float32)},
        "block": {"kernel": jnp.asarray(0.3 * RNG.standard_normal((1, 1, 4, 5)), jnp.float32)},
        "stem_norm": {"scale": None, "bias": None},
    },
    "projector": {"linear1": {"kernel": jnp.ones((5, 3)), "bias": jnp.zeros(3)}},
}
magnitude_mask = jax.jit(
    partial(pruning.magnitude_mask, prunable=lambda name, leaf: name.endswith("kernel") and "projector" not in name),
    static_argnames=("rate", "criterion", "random_rate"),
)


def sorted_threshold(rate):
    """The paper's rule, by sorting."""
    flat = np.sort(np.abs(np.concatenate([np.ravel(x) for x in jax.tree.leaves(WEIGHTS["encoder"])])))
    return flat[min(int(np.ceil(rate * flat.size)), flat.size - 1)]


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.5, 0.9, 0.99])
def test_mask_equals_the_sorted_rule(rate):
    mask = magnitude_mask(WEIGHTS, rate)
    assert trees.named(mask).keys() == {"encoder/stem/kernel", "encoder/block/kernel"}
    for name, kept in trees.named(mask).items():
        np.testing.assert_array_equal(kept, np.abs(trees.named(WEIGHTS)[name]) >= sorted_threshold(rate))
    total = sum(int(m.sum()) for m in jax.tree.leaves(mask))
    assert total == max(92 - int(np.ceil(rate * 92)), 1)  # the largest weight always stays


@given(
    # Each length is compiled.
    st.sampled_from((1, 2, 5, 40)).flatmap(
        lambda n: st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=n, max_size=n)
    ),
    st.floats(0, 1, exclude_max=True),
)
@settings(deadline=None, max_examples=60)
def test_threshold_is_the_order_statistic(values, share):
    x = np.asarray(values, np.float32)
    rank = int(share * len(x))
    bits = pruning._entry([pruning._magnitude_bits(jnp.asarray(x))], rank)
    # Denormals flush to zero in XLA's arithmetic but not in its bits, so compare bits.
    assert int(bits) == int(np.sort(np.abs(x)).view(np.uint32)[rank])


def test_equal_magnitudes_stay_together():
    weights = {"c": {"kernel": jnp.ones((1, 1, 2, 5)) * jnp.array([1.0, -1.0]).reshape(1, 1, 2, 1)}}
    assert all(m.all() for m in jax.tree.leaves(magnitude_mask(weights, 0.5)))


def test_random_part_goes_on_top():
    weights = {"c": {"kernel": jnp.asarray(RNG.standard_normal((3, 3, 64, 64)), jnp.float32)}}
    plain = magnitude_mask(weights, 0.5)["c"]["kernel"]
    both = magnitude_mask(weights, 0.5, random_rate=0.2, key=jax.random.key(0))["c"]["kernel"]
    other = magnitude_mask(weights, 0.5, random_rate=0.2, key=jax.random.key(1))["c"]["kernel"]
    assert not (both & ~plain).any()
    n = plain.size
    # binomial: n/2 survivors, each lost with probability 0.4
    assert abs(int(both.sum()) - 0.3 * n) < 5 * np.sqrt(n / 2 * 0.4 * 0.6)
    assert (both != other).any()


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_the_largest_are_cut_by_the_sorted_rule_reversed(rate):
    magnitudes = np.abs(np.concatenate([np.ravel(x) for x in jax.tree.leaves(WEIGHTS["encoder"])]))
    kept = magnitude_mask(WEIGHTS, rate, criterion="largest")
    limit = np.sort(magnitudes)[::-1][min(int(np.ceil(rate * 92)), 91)]
    for name, mask in trees.named(kept).items():
        np.testing.assert_array_equal(mask, np.abs(trees.named(WEIGHTS)[name]) <= limit)
    assert sum(int(m.sum()) for m in jax.tree.leaves(kept)) == 92 - int(np.ceil(rate * 92))


def test_random_ones_are_as_many_and_do_not_look_at_the_weights():
    weights = {"c": {"kernel": jnp.asarray(np.sort(RNG.standard_normal(9216)).reshape(3, 3, 32, 32), jnp.float32)}}
    first, second = (
        magnitude_mask(weights, 0.75, criterion="random", key=jax.random.key(seed))["c"]["kernel"] for seed in (0, 1)
    )
    assert int(first.sum()) == int(second.sum()) == 9216 - 6912
    # Two draws share a quarter of a quarter; and the mean place of those kept is that of all (normal, five deviations).
    assert abs(int((first & second).sum()) - 576) < 5 * np.sqrt(576 * 0.75 * 0.75)
    places = np.flatnonzero(np.ravel(first))
    assert abs(places.mean() - 4607.5) < 5 * 9216 / np.sqrt(12 * 2304)
    whole = magnitude_mask(weights, 0.0, criterion="random", key=jax.random.key(0))["c"]["kernel"]
    assert whole.all()


@pytest.mark.parametrize("settings", [{"rate": 0.5, "criterion": "random"}, {"rate": 0.0, "random_rate": 0.5}])
def test_two_kernels_of_one_shape_get_other_random_masks(settings):
    weights = {name: {"kernel": jnp.ones((1, 1, 8, 8))} for name in "ab"}
    first, second = jax.tree.leaves(
        pruning.magnitude_mask(weights, prunable=lambda *_: True, key=jax.random.key(0), **settings)
    )
    assert 0 < int((first != second).sum()) < 64


def test_a_criterion_that_is_not_known_is_refused_and_a_draw_without_a_key():
    everything = {"prunable": lambda name, leaf: True}
    with pytest.raises(ArgumentError, match="^criterion is 'movement': known are smallest, random, largest"):
        pruning.magnitude_mask(WEIGHTS, 0.5, criterion="movement", **everything)
    with pytest.raises(ArgumentError, match="^key is None, and criterion is 'random'"):
        pruning.magnitude_mask(WEIGHTS, 0.5, criterion="random", **everything)


def test_a_rate_that_would_cut_all_leaves_the_largest():
    """ceil(0.995 * 72) is 72; what is left for the random part is one weight, and not none."""
    weights = {"c": {"kernel": jnp.arange(72.0).reshape(3, 3, 2, 4)}}
    assert trees.named(magnitude_mask(weights, 0.995))["c/kernel"].reshape(-1).tolist() == [False] * 71 + [True]
    assert not magnitude_mask(weights, 0.995, random_rate=0.001, key=jax.random.key(0))["c"]["kernel"].any()


def test_pruned_entries_are_zero_and_get_no_gradient():
    mask = magnitude_mask(WEIGHTS, 0.5)
    pruned = pruning.apply(mask, WEIGHTS)
    gradient = jax.grad(lambda w: sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(pruning.apply(mask, w))))(WEIGHTS)
    for name, kept in trees.named(mask).items():
        w, p, g = (trees.named(t)[name] for t in (WEIGHTS, pruned, gradient))
        np.testing.assert_array_equal(p, np.where(kept, w, 0))
        np.testing.assert_allclose(g, np.where(kept, np.cos(w), 0), rtol=1e-6)
    np.testing.assert_array_equal(pruned["projector"]["linear1"]["kernel"], WEIGHTS["projector"]["linear1"]["kernel"])


def test_a_nan_under_the_mask_stays_there():
    mask = {"c": {"kernel": jnp.array([True, False]).reshape(1, 1, 1, 2)}}
    weights = {"c": {"kernel": jnp.array([1.0, jnp.nan]).reshape(1, 1, 1, 2)}}
    assert jnp.isfinite(pruning.apply(mask, weights)["c"]["kernel"]).all()


def test_mask_is_the_same_on_sharded_weights():
    kernel = RNG.standard_normal((8, 3, 4, 4)).astype(np.float32)
    expected = magnitude_mask({"c": {"kernel": jnp.asarray(kernel)}}, 0.7)["c"]["kernel"]
    sharded = {"c": {"kernel": jax.device_put(kernel, parallel.shardings().batch)}}
    np.testing.assert_array_equal(magnitude_mask(sharded, 0.7)["c"]["kernel"], expected)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rate": 1.0}, "rate is 1.0: it must be at least 0 and below 1"),
        ({"rate": -0.1}, "rate is -0.1"),
        ({"rate": 0.7, "random_rate": 0.4}, "random_rate is 0.4: it must be at least 0 and below 1 - rate, 0.3"),
        ({"rate": 0.7, "random_rate": 0.1}, "key is None, and random_rate is 0.1"),
    ],
)
def test_a_rate_that_no_mask_has_is_refused(settings, said):
    with pytest.raises(ArgumentError, match=f"^{re.escape(said)}"):
        pruning.magnitude_mask({"kernel": jnp.ones(4)}, prunable=lambda name, leaf: True, **settings)


@pytest.mark.parametrize("other", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("criterion", ["smallest", "largest"])
def test_weights_of_two_types_are_compared_by_their_values(other, criterion):
    values = {"a": jnp.array([0.125, 4.0, 0.25, 5.0]), "b": jnp.array([3.0, 0.375, 2.0, 0.5])}
    expected = pruning.magnitude_mask(values, 0.5, prunable=lambda name, leaf: True, criterion=criterion)
    for narrow in ("a", "b"):
        mixed = values | {narrow: values[narrow].astype(other)}
        found = pruning.magnitude_mask(mixed, 0.5, prunable=lambda name, leaf: True, criterion=criterion)
        assert {name: mask.tolist() for name, mask in found.items()} == {
            name: mask.tolist() for name, mask in expected.items()
        }


def test_a_mask_that_would_cover_nothing_is_refused():
    for make in (pruning.ones, partial(pruning.magnitude_mask, rate=0.5)):
        with pytest.raises(ArgumentError, match="^prunable chooses none of the weights"):
            make(WEIGHTS, prunable=lambda name, leaf: False)


def test_density_by_layer():
    mask = magnitude_mask(WEIGHTS, 0.5)
    density = {k: float(v) for k, v in pruning.density(mask).items()}
    assert density["encoder/stem"] == pytest.approx(float(mask["encoder"]["stem"]["kernel"].mean()))
    assert density["all"] == pytest.approx(46 / 92)
    assert density.keys() == {"encoder/stem", "encoder/block", "all"}
