"""From a config to objects, where images are decoded as they are needed."""

import json
import pathlib
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax.errors import InvalidRngError

from configs import base
from sdclr_jax import branches, optim, parallel, recipes, records
from sdclr_jax.data import order
from sdclr_jax.data.batches import Cropped, Resident, Streamed
from sdclr_jax.data.crops import CentreCrop, RandomCrops
from sdclr_jax.data.images import Files
from sdclr_jax.errors import UserError
from sdclr_jax.models.norms import MOMENTUM
from sdclr_jax.recipes import evaluation, images, methods
from sdclr_jax.records import EncoderRecord

FILES = Files("/nowhere", np.array(["a.jpg", "b.jpg", "c.jpg", "d.jpg"]))


def config():
    c = base.get_config()
    c.batch_size, c.views.size, c.seed, c.data.workers = 2, 12, 7, 0
    return c


def multi_crop():
    c = config()
    c.pairs, c.views.small_size = ((("dense", 0), ("dense", 1)), (("dense", 0), ("dense", 2))), 6
    return c


def test_batches_are_of_the_kind_that_the_images_ask_for():
    shardings = parallel.shardings(jax.devices()[:1])
    assert isinstance(recipes.batches(config(), FILES, shardings), Streamed)
    assert isinstance(recipes.batches(config(), np.zeros((4, 8, 8, 3), np.uint8), shardings), Resident)


def test_shapes():
    c = config()
    assert recipes.image_shape(c, FILES) == (4, 12, 12, 3)
    assert recipes.image_shape(c, np.zeros((3, 8, 8, 1), np.uint8)) == (3, 8, 8, 1)
    assert recipes.view_shape(c, (3, 32, 32, 3)) == (1, 12, 12, 3)


def test_crops_are_those_of_the_config(monkeypatch):
    seen = {}
    monkeypatch.setattr(images, "Streamed", lambda *a, **k: seen.update(k))
    recipes.batches(config(), FILES, parallel.shardings(jax.devices()[:1]))
    large = RandomCrops(count=2, size=12, scale=(0.1, 1.0), ratio=(0.75, 4 / 3), seed=7)
    assert seen["crops"] == (large,)
    assert (seen["workers"], seen["prefetch"]) == (0, 2)
    recipes.batches(multi_crop(), FILES, parallel.shardings(jax.devices()[:1]))
    small = RandomCrops(count=1, size=6, scale=(0.05, 0.14), ratio=(0.75, 4 / 3), seed=7, first=2)
    assert seen["crops"] == (large, small)
    assert recipes.centre_crop(config()) == CentreCrop(size=224, resize=256, interpolation="bilinear")
    assert recipes.probe_crops(config()) == RandomCrops(1, 224, (0.08, 1.0), (3 / 4, 4 / 3), 7, 0, "bilinear")
    assert recipes.centre_crop(recipes.load("folder:sdclr")).interpolation == "bicubic"


def test_views_of_crops_are_those_crops_in_their_order():
    c = config()
    c.views.flip = c.views.jitter_probability = c.views.grayscale_probability = 0.0
    crops = np.random.default_rng(0).integers(0, 256, (4, 2, 12, 12, 3), np.uint8)
    views = jax.jit(recipes.views(c))(jax.random.key(0), Cropped((crops,)))
    assert len(views) == 2
    for number, view in enumerate(views):
        np.testing.assert_allclose(view, recipes.plain_view(c)(crops[:, number]), atol=1e-5)
    probed = jax.jit(recipes.probe_views(c, FILES).view)(jax.random.key(0), crops[:, 0])
    plain = np.asarray(recipes.plain_view(c)(crops[:, 0]))
    for view, image in zip(np.asarray(probed), plain, strict=True):
        assert any(np.allclose(view, x, atol=1e-5) for x in (image, image[:, ::-1]))


def test_small_views_come_from_small_crops_and_have_their_own_probabilities():
    c = multi_crop()
    c.views.flip = c.views.jitter_probability = c.views.grayscale_probability = 0.0
    c.views.solarize_probability = (0.0, 1.0, 1.0)
    recipes.check(c)
    rng = np.random.default_rng(0)
    crops = tuple(rng.integers(0, 256, (4, n, s, s, 3), np.uint8) for n, s in ((2, 12), (1, 6)))
    views = jax.jit(recipes.views(c))(jax.random.key(0), Cropped(crops))
    plain = recipes.plain_view(c)
    solarized = [np.where(x < 128, x, 255 - x).astype(np.uint8) for x in crops]
    for view, crop in zip(views, (crops[0][:, 0], solarized[0][:, 1], solarized[1][:, 0]), strict=True):
        np.testing.assert_allclose(view, plain(crop), atol=1e-4)


def test_what_is_pruned_how_often_and_whether_it_learns_come_from_the_config():
    c = recipes.load("digits_lt:sdclr")
    for every, steps in ((0, 5), (-1, 5 * c.epochs), (1, 1), (7, 7)):
        c.prune.every = every
        assert recipes.method(c, steps_per_epoch=5).refresh_every == steps
    published = recipes.method(c, 5)
    c.prune.criterion, c.prune.gradient, c.prune.rate = "largest", False, 0.25
    built = recipes.method(c, 5)
    assert [m.branches["sparse"].stopped for m in (published, built)] == [False, True]
    assert not built.branches["dense"].stopped
    kernel = jax.numpy.arange(1.0, 9.0).reshape(1, 1, 2, 4)
    masks = (m.prune({"kernel": kernel}, prunable=lambda *_: True)["kernel"] for m in (published, built))
    assert [mask.ravel().tolist() for mask in masks] == [[False] * 7 + [True], [True] * 6 + [False] * 2]


def test_optimizer_norms_mask_and_heads_are_those_of_the_config(monkeypatch):
    given, lars = {}, optim.OPTIMIZERS["lars"]
    monkeypatch.setitem(methods.OPTIMIZERS, "lars", lambda **fields: given.update(fields) or lars(**fields))
    own = {"weight_decay": 0.3, "decay_vectors": False, "momentum": 0.8, "final_learning_rate": 0.01}
    own |= {"learning_rate": 0.7, "rate_moves": "after_epoch", "constant_rate": ("projector",)}
    own |= {"trust_coefficient": 0.02}
    heads = {"projector": (2, 7, 5, False, "bias"), "predictor": (3, 6, 5, True, "plain_norm")}
    c = recipes.load("digits_lt:sdclr")
    recipes.override(
        c,
        {
            "epochs": 9,
            "prune": {"norms": "shared", "rate": 0.0, "random_rate": 0.5},
            "projector": {"layers": 2, "hidden": 7, "out": 5, "hidden_norm": False, "last": "bias"},
            "predictor": {"layers": 3, "hidden": 6, "last": "plain_norm"},
            "prototypes": {"count": 4, "frozen_epochs": 3},
            "target": {"momentum": 0.6, "final_momentum": 0.8},
            "optimizer": own | {"name": "lars", "warmup_epochs": 2},
            "steps_per_dispatch": 3,
        },
    )
    built = recipes.method(c, steps_per_epoch=5)
    assert given == own | {
        "warmup_steps": 10,
        "total_steps": 45,
        "steps_per_epoch": 5,
        "frozen_prototype_steps": 15,
    }
    assert built.branches["sparse"].norms == "dense"
    assert built.prune.keywords == {"rate": 0.0, "criterion": "smallest", "random_rate": 0.5}
    for name, head in heads.items():
        made = getattr(built.network, name)
        assert (made.layers, made.hidden, made.out, made.hidden_norm, made.last) == head
    assert built.network.prototypes.count == 4
    assert built.steps_per_dispatch == 3
    momenta = [float(built.target_momentum(step)) for step in (0, 45)]
    assert momenta == pytest.approx([0.6, 0.8])


def meeting(queue, batch, images):
    """Share of the images of a step whose own key of the epoch before is in the queue, where part batches are dropped:
    at place j of an epoch of n batches, the keys of places n - queue / batch + j and later."""
    steps = images // batch
    return sum(max(0, queue - j * batch) for j in range(steps)) / steps / images


def test_an_image_meets_its_own_key_in_the_queue_as_often_as_the_page_says():
    drawn, seen, met, last = meeting(256, 64, 369), 0, [], {}
    for step in range(5 * 200):
        rows = order.rows(369, 64, 0, step, "dropped")
        met += [row in last and seen - last[row] <= 256 for row in rows]
        last |= {row: seen + i for i, row in enumerate(rows)}
        seen += len(rows)
    assert np.mean(met) == pytest.approx(drawn, abs=0.01)
    images = {"cifar10_lt": 11_165, "cifar100_lt": 9_754, "places_lt": 62_500, "imagenet_lt": 115_846}
    images |= {"imagenet100_lt": 12_205, "digits_lt": 369}
    loaded = {name: recipes.load(f"{name}:moco") for name in images}
    shares = [meeting(c.objective.queue, c.batch_size, images[name]) for name, c in loaded.items()]
    assert {c.data.last_batch for c in loaded.values()} == {"dropped"}
    page = (pathlib.Path(__file__).parents[1] / "docs" / "published.md").read_text()
    (said,) = re.findall(r"\(K / N\)²/2 .+?code on ImageNet it is (.+?) digits\.\n", page, re.DOTALL)
    percents = [float(x) for x in re.findall(r"([\d.]+) %", said)]
    assert percents == [round(100 * meeting(65_536, 256, 1_281_167), 1), *(round(100 * share) for share in shares)]


def test_the_share_of_the_sparse_branch_in_running_statistics_is_that_of_the_page():
    """Of what a step adds to one set of statistics, by which each pass keeps `MOMENTUM`; the last one weighs most."""
    page, keeps = (pathlib.Path(__file__).parents[1] / "docs" / "design.md").read_text(), MOMENTUM
    assert list(branches.BRANCHES)[:2] == ["dense", "sparse"]  # the order of the passes

    def share(*passes):
        new = {i: (1 - keeps) * keeps ** (len(passes) - 1 - i) for i in range(len(passes))}
        return sum(new[i] for i, branch in enumerate(passes) if branch == "sparse") / sum(new.values())

    theirs, ours = share("sparse", "dense", "sparse"), share("dense", "sparse")
    assert f"keep {keeps**2:.2f} of themselves in a step, here {keeps:.1f}" in page
    assert (
        f"{theirs:.1%} of each update of the shared statistics comes from the sparse branch there; here {ours:.1%}"
        in page.replace("\n  ", " ").replace(" %", "%")
    )


def test_a_target_keeps_its_own_statistics_where_the_norms_are_shared():
    chosen = branches.choose({"dense", "sparse", "target"}, "shared")
    assert {name: branch.norms for name, branch in chosen.items()} == {
        "dense": "dense",
        "sparse": "dense",
        "target": "target",
    }


@pytest.mark.parametrize(
    ("kind", "held", "source"),
    [
        ("Resident", np.zeros((4, 8, 8, 3), np.uint8), "resident"),
        ("Sent", np.zeros((4, 8, 8, 3), np.uint8), "streamed"),
        ("Streamed", FILES, "streamed"),
    ],
)
def test_batches_are_told_what_becomes_of_the_last_one(monkeypatch, kind, held, source):
    c, seen = config(), []
    c.batch_size, c.data.input = 3, source
    monkeypatch.setattr(images, kind, lambda *given, **fields: seen.append((given[1:3], fields["last_batch"])))
    for last_batch in ("kept", "dropped"):
        c.data.last_batch = last_batch
        recipes.batches(c, held, parallel.shardings(jax.devices()[:1]))
    assert seen == [((3, 7), "kept"), ((3, 7), "dropped")]


def test_a_branch_that_does_not_learn_is_no_first_side(monkeypatch):
    c = recipes.load("digits_lt:sd_byol")
    c.prune.gradient = False
    with pytest.raises(
        UserError, match=r"first side must learn, and with prune\.gradient False the sparse branch does"
    ):
        recipes.check(c)
    monkeypatch.setitem(branches.BRANCHES, "still", branches.Branch("dense", stopped=True))  # a row of one's own
    assert [branch.stopped for branch in branches.choose({"dense", "still"}, "shared").values()] == [False, True]
    c.pairs = ((("dense", 0), ("still", 1)),)
    recipes.check(c)
    c.pairs = ((("still", 1), ("dense", 0)),)
    with pytest.raises(UserError, match="first side must learn, and the still branch does not"):
        recipes.check(c)


def test_what_is_measured_and_how_comes_from_the_config(monkeypatch):
    given, shardings, pixels = {}, parallel.shardings(jax.devices()[:1]), np.zeros((40, 32, 32, 3), np.uint8)
    for name in ("FrozenEncoder", "ProbeViews", "PruningProbe"):
        monkeypatch.setattr(evaluation, name, lambda *_, of=name, **fields: given.update({of: fields}))
    c = recipes.load("cifar10_lt:sdclr")
    c.views.mean, c.views.std, c.seed, c.batch_size, c.data.workers = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 9, 16, 0
    c.prune.rate, c.objective.temperature = 0.25, 0.7
    c.evaluate.batch_size, c.evaluate.padding, c.evaluate.flip = 7, 3, 0.125
    own = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "workers": 0}
    recipes.frozen_encoder(c, shardings)
    assert given["FrozenEncoder"] == own | {"crop": recipes.centre_crop(c), "batch_size": 7, "shardings": shardings}
    recipes.probe_views(c, pixels)
    assert given["ProbeViews"] == own | {"padding": 3, "flip": 0.125, "crops": None, "seed": 9}

    def probe(c, against, rates=(0.5, 0.75)):
        asked = {"rates": rates, "pairs": 2, "against": against, "shardings": shardings}
        recipes.pruning_probe(c, pixels.__getitem__, len(pixels), **asked)
        found = given["PruningProbe"]
        return [found[name] for name in ("rates", "pairs", "against", "size", "batch_size", "seed", "temperature")]

    assert probe(c, "recalibrated") == [(0.5, 0.75), 2, "recalibrated", 40, 16, 9, 0.7]
    assert probe(c, "sparse", None) == [(0.25,), 2, "sparse", 40, 16, 9, 0.7]  # the rate of training, at which it is
    c.batch_size = 512  # more than there are images
    assert probe(c, "recalibrated")[4] == 40
    assert probe(recipes.load("cifar10_lt:byol"), "recalibrated")[-1] is None  # which has no softmax


@pytest.mark.parametrize("field", images.PER_VIEW)
def test_a_probability_for_each_view_is_one_for_each_view(field):
    c = multi_crop()
    c.views[field] = (0.1, 0.2)
    with pytest.raises(UserError, match=rf"views\.{field} is \(0\.1, 0\.2\): it must be one number, or 3, one a view"):
        recipes.check(c)


def test_a_step_on_crops_of_two_sizes_is_traced():
    c = multi_crop()
    c.model.name, c.model.width = "resnet8", 2
    shardings = parallel.shardings(jax.devices()[:1])
    like = recipes.abstract_state(c, recipes.image_shape(c, FILES), shardings)

    def try_step():
        recipes.try_step(c, recipes.method(c, 1, shardings.replicated), like, FILES, shardings.batch)

    try_step()
    c.views.mean = (0.1, 0.2)
    with pytest.raises(UserError, match=r"views\.mean"):
        try_step()


def test_what_flax_has_to_say_of_a_step_is_a_sentence():
    c, images = recipes.load("digits_lt:simclr"), np.zeros((369, 8, 8, 1), np.uint8)

    def fails(*given):
        raise InvalidRngError("patches needs PRNG for 'noise'")

    method = SimpleNamespace(jitted_step=SimpleNamespace(eval_shape=fails))
    with pytest.raises(UserError, match="do not fit images of shape .* or each other: patches needs PRNG for 'noise'"):
        recipes.try_step(c, method, None, images, parallel.shardings(jax.devices()[:1]).batch)


def test_the_range_of_gray_images_goes_with_the_encoder():
    config = recipes.load("folder:sdclr")
    config.model.name = "resnet8"
    for gray_range, expected in (((0.0, 0.0), ()), ((0.0, 4095.0), (0.0, 4095.0))):
        config.data.gray_range = gray_range
        record = recipes.encoder_record(config, (1, 8, 8, 3), encoded=True)
        assert record.gray_range == expected
        assert records.decode(EncoderRecord, json.loads(json.dumps(record.to_json()))) == record
