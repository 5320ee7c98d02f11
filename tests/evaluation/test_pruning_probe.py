"""What pruning changes, against the network applied by hand; a network in which it is known; batches and devices."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdclr_jax import parallel, recipes, trees
from sdclr_jax.branches import Branch
from sdclr_jax.errors import ArgumentError, UserError
from sdclr_jax.evaluation import pruning_probe
from sdclr_jax.objectives import nt_xent
from tests.runs import config

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (37, 8, 8, 1), np.uint8)


def tiny(method="sdclr"):
    c = config(method)
    c.batch_size = 16
    return c


@pytest.fixture(scope="module")
def state():
    """A state whose norms and statistics differ between the branches, with a mask."""
    method = recipes.method(tiny(), steps_per_epoch=1)
    state = jax.jit(method.init)(np.uint32(0), jnp.zeros((1, 8, 8, 1)))
    step = jax.jit(method.step)
    state = jax.jit(method.refresh)(state)
    for _ in range(5):
        state, _ = step(state, IMAGES[:16])
    return state


def probe(c=None, images=IMAGES, devices=1, **changed):
    settings = {"rates": (0.5, 0.9), "pairs": 0, "against": "pruned"} | changed
    return recipes.pruning_probe(
        c or tiny(),
        lambda rows: images[rows],
        len(images),
        **settings,
        shardings=parallel.shardings(jax.devices()[:devices]),
    )


def by_hand_params(state, norms, mask):
    """The parameters of a network, put together from the state's parts; `mask` is bool by layer."""
    weights = {k: v for k, v in trees.named(state.params["weights"]).items() if v is not None}
    weights = {k: np.where(mask[k], v, 0) if k in mask else v for k, v in weights.items()}
    flat = {**weights, **{k: v for k, v in trees.named(state.params["norms"][norms]).items() if v is not None}}
    params = {}
    for name, leaf in flat.items():
        *modules, last = name.split("/")
        node = params
        for module in modules:
            node = node.setdefault(module, {})
        node[last] = leaf
    return params


def by_hand(state, norms, mask):
    """Features and projections [N, D] of the plain images."""
    params = by_hand_params(state, norms, mask)
    views = (IMAGES.astype(np.float32) / 255 - np.float32(0.305)) / np.float32(0.376)
    out = recipes.network(tiny()).apply({"params": params, "batch_stats": state.stats[norms]}, views, train=False)
    return np.asarray(out.features, np.float64), np.asarray(out.projection, np.float64)


def changes(a, b):
    return 1 - (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def largest(state, rate):
    """The mask of the largest weights, from sorting all of them."""
    kernels = {k: np.abs(v) for k, v in trees.named(state.params["weights"]).items() if v is not None and v.ndim == 4}
    everything = np.sort(np.concatenate([k.ravel() for k in kernels.values()]))
    return {k: v >= everything[int(np.ceil(rate * len(everything)))] for k, v in kernels.items()}


def test_scores_are_one_minus_the_cosines_of_whole_and_pruned(state):
    found = probe().measure(state)
    whole = by_hand(state, "dense", {})
    for i, rate in enumerate((0.5, 0.9)):
        pruned = by_hand(state, "dense", largest(state, rate))
        for j in range(2):
            np.testing.assert_allclose(found.scores[i, j], changes(whole[j], pruned[j]), atol=1e-5)
        assert all((found.masks[i][layer] == mask).all() for layer, mask in largest(state, rate).items())


def test_the_sparse_branch_has_its_own_mask_norms_and_statistics(state):
    sparse = probe(against="sparse", rates=None)
    assert sparse.rates == (0.9,) == probe(against="sparse", rates=(0.9,)).rates
    with pytest.raises(ArgumentError, match=r"rates is \(0\.5, 0\.9\): the sparse branch has one rate, 0\.9, so leave"):
        probe(against="sparse", rates=(0.5, 0.9))
    assert probe(rates=None).rates == (0.5, 0.7, 0.9)
    mask = {k: np.asarray(v) for k, v in trees.named(state.mask).items() if v is not None}
    whole, pruned = by_hand(state, "dense", {}), by_hand(state, "sparse", mask)
    np.testing.assert_allclose(sparse.measure(state).scores[0, 0], changes(whole[0], pruned[0]), atol=1e-5)
    with pytest.raises(UserError, match="simclr has no sparse branch"):
        recipes.check_against(tiny("simclr"), "sparse")
    recipes.check_against(tiny("simclr"), "pruned")


def test_pruning_nothing_changes_nothing_and_statistics_are_made_afresh(state, monkeypatch):
    monkeypatch.setattr(pruning_probe, "CALIBRATION", 8)
    found = probe(rates=(0.0, 0.9), against="recalibrated", pairs=1).measure(state)
    np.testing.assert_allclose(found.scores[0, :2], 0, atol=1e-6)
    np.testing.assert_allclose(found.scores[0, 3], 0, atol=1e-5)  # the loss does not rise
    assert (found.scores[1, 0] > 1e-4).all()
    # Statistics that no network would have are forgotten.
    spoilt = state.replace(stats=jax.tree.map(lambda x: x + 1, state.stats))
    again = probe(rates=(0.0, 0.9), against="recalibrated", pairs=1).measure(spoilt)
    np.testing.assert_allclose(again.scores[1, 0], found.scores[1, 0], atol=1e-4)
    kept = probe(rates=(0.9,), against="pruned").measure(spoilt)
    assert abs(kept.scores[0, 0] - found.scores[1, 0]).max() > 0.1 * found.scores[1, 0].max()


def test_recalibrated_statistics_are_means_over_batches_of_training_views(state, monkeypatch):
    monkeypatch.setattr(pruning_probe, "CALIBRATION", 3)
    m = probe(images=IMAGES[:16])  # a batch is all of them, so only the views differ
    whole = {"params": by_hand_params(state, "dense", {}), "batch_stats": state.stats["dense"]}
    doubled = jax.tree.map(lambda x: 2 * x, whole)  # each network has statistics of its own
    found, twice = m._recalibrated([whole, doubled])
    stem = found["batch_stats"]["encoder"]["stem_norm"]
    kernel = whole["params"]["encoder"]["stem"]["kernel"]
    means, variances = [], []
    for step in range(3):
        order = np.random.default_rng((0, step)).permutation(16)
        views = np.concatenate([np.asarray(v) for v in m._views(m._key(0, step), IMAGES[:16][order])])
        after = jax.lax.conv_general_dilated(
            views, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
        )
        means.append(np.mean(after, axis=(0, 1, 2)))
        variances.append(np.var(after, axis=(0, 1, 2)))
    np.testing.assert_allclose(stem["mean"], np.mean(means, axis=0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(stem["var"], np.mean(variances, axis=0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        twice["batch_stats"]["encoder"]["stem_norm"]["mean"], 2 * stem["mean"], rtol=1e-3, atol=1e-4
    )


def test_the_loss_is_the_objective_between_first_view_whole_and_second_pruned(state):
    """With as many images as a batch, its mean is the objective itself."""
    m = probe(images=IMAGES[:16], pairs=2)
    found = dict(zip(m.scores, m.measure(state).scores[1], strict=True))
    networks = [
        m._variables(Branch("dense", masked=mask is not None), state.params, state.stats, mask)
        for mask in (None, m._masks(state)[1])
    ]
    order = np.random.default_rng(0).permutation(16)
    outputs = m._outputs_of(networks, order, 0)
    losses = {
        name: np.mean([float(nt_xent(outputs[0][v].projection, other[v + 1].projection, 0.2)) for v in (1, 3)])
        for name, other in (("whole", outputs[0]), ("pruned", outputs[1]))
    }
    assert found["loss"].mean() == pytest.approx(losses["pruned"], rel=1e-5)
    assert found["loss_rise"].mean() == pytest.approx(losses["pruned"] - losses["whole"], rel=1e-4)
    assert probe(pairs=0).scores == ("features", "projections")


def test_every_image_counts_once_on_any_number_of_devices(state):
    """37 images in batches of 16: the last batch is filled up, and the views are the same."""
    one, eight = (probe(devices=devices, pairs=1).measure(state) for devices in (1, 8))
    np.testing.assert_allclose(eight.scores, one.scores, atol=1e-5)
    assert one.scores.shape == (2, 4, 37)
    three = probe(devices=3).measure(state)  # cannot share 16, so they take 18
    np.testing.assert_allclose(three.scores, probe().measure(state).scores, atol=1e-5)


@pytest.mark.parametrize(("size", "batch"), [(9, 8), (16, 16), (20, 16), (1000, 16)])
def test_no_image_is_twice_in_a_batch(size, batch):
    """Or it would be a negative of itself: 16 images a step in training, 8 devices."""
    assert recipes.shared_batch_size(tiny(), size, parallel.shardings(jax.devices())) == batch
    with pytest.raises(UserError, match="the run has 7 images, and there are 8 devices to share them"):
        recipes.shared_batch_size(tiny(), 7, parallel.shardings(jax.devices()))


def test_images_that_pruning_changes_come_first():
    """A network that sees brightness with large weights and falls to the right with small ones, which are cut: images
    that only rise keep their features to the bit."""
    c = tiny("simclr")
    c.views.mean, c.views.std = (0.0,), (1.0,)
    c.projector.layers = 1
    method = recipes.method(c, steps_per_epoch=1)
    state = jax.jit(method.init)(np.uint32(0), jnp.zeros((1, 8, 8, 1)))
    kernels = {}
    for name, leaf in trees.named(state.params["weights"]).items():
        if leaf is not None and leaf.ndim == 4:
            kernels[name] = np.zeros(leaf.shape, np.float32)
            if "shortcut" in name:  # channels go on as they are
                kernels[name][0, 0] = np.eye(*leaf.shape[2:])
    stem = kernels["encoder/stem/kernel"]
    stem[1, 1, 0, 0] = 1
    stem[1, :2, 0, 1] = 0.1, -0.1  # left less centre: positive where the brightness falls

    def planted(path, leaf):
        return kernels.get(trees.name(path), leaf)

    weights = jax.tree_util.tree_map_with_path(planted, state.params["weights"])
    stats = jax.tree.map(jnp.asarray, state.stats["dense"])
    stats["encoder"]["stem_norm"]["var"] = jnp.array([1.0, 1e-5])
    state = state.replace(params={**state.params, "weights": weights}, stats={"dense": stats})
    rising = np.sort(RNG.integers(1, 256, (20, 8, 8, 1), np.uint8), axis=2)
    falls = np.arange(20) % 4 == 1
    images = np.where(falls[:, None, None, None], rising[:, :, ::-1], rising)
    size = sum(k.size for k in kernels.values())
    found = probe(c, images, rates=((size - 7) / size,)).measure(state)  # 1 + 2 + 4 large ones are left
    assert sum(mask.sum() for mask in found.masks[0].values()) == 7
    assert set(np.argsort(-found.scores[0, 0])[:5]) == set(np.flatnonzero(falls))
    np.testing.assert_allclose(found.scores[0, 0][~falls], 0, atol=1e-6)
    assert (found.scores[0, 0][falls] > 1e-3).all()


def test_statistics_of_a_network_with_dropout_are_of_what_it_leaves():
    class Dropping(nn.Module):
        @nn.compact
        def __call__(self, views, train):
            x = nn.Dropout(0.5, deterministic=not train)(views.reshape(len(views), -1))
            return nn.BatchNorm(use_running_average=not train, name="norm")(x)

    zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
    norm = {"params": {"scale": ones, "bias": zeros}, "batch_stats": {"mean": zeros, "var": ones}}
    variables = {kind: {"norm": arrays} for kind, arrays in norm.items()}
    statistics = jax.jit(partial(pruning_probe.batch_statistics, Dropping()))
    found = statistics(variables, [jnp.ones((500, 2, 2, 1))])["norm"]
    np.testing.assert_allclose(found["mean"], 1, atol=0.2)  # half of them are 2, the others 0
    np.testing.assert_allclose(found["var"], 1, atol=0.05)


def test_a_run_that_diverged_is_refused(state):
    broken = state.replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params))
    with pytest.raises(UserError, match="scores at step 5 are not finite"):
        probe().measure(broken)


@pytest.mark.parametrize("name", ["swav"])  # damaged BYOL is in tests/commands/test_target_methods.py
def test_methods_with_more_heads_branches_and_views(name):
    """SwAV has small crops and prototypes, self-damaged BYOL a predictor, a target and a sparse branch."""
    c = tiny(name)
    state = jax.jit(recipes.method(c, steps_per_epoch=1).init)(np.uint32(0), jnp.zeros((1, 8, 8, 1)))
    found = probe(c, against="recalibrated", rates=(0.9,), pairs=1).measure(state)
    assert found.scores.shape == (1, 2, 37)  # no NT-Xent, so no losses
    assert (found.scores > 0).all()
