"""A run in Python: opened without its data and the rest of its state, and features of images of every kind."""

import copy
import json
import pickle
import shutil

import jax
import numpy as np
import pytest
from PIL import Image, ImageOps

from sdclr_jax import interop, parallel, recipes
from sdclr_jax.api.evaluate import _dense, evaluate
from sdclr_jax.api.exemplars import exemplars
from sdclr_jax.api.export import export
from sdclr_jax.api.load import _fitted, load
from sdclr_jax.data.images import Files
from sdclr_jax.data.pictures import Pictures
from sdclr_jax.errors import UserError
from sdclr_jax.records import TrainedOn
from sdclr_jax.run import checkpoints as checkpoints_module
from sdclr_jax.run import folder
from sdclr_jax.run.checkpoints import Checkpoints
from tests import runs
from tests.commands import test_streamed
from tests.photos import encoded, jpeg, photo


def make(directory, config, image_shape, steps=(1,), is_encoded=False):
    """The folder of a run whose state is random numbers."""
    like = recipes.abstract_state(config, image_shape, parallel.shardings(jax.devices()[:1]))
    rng = np.random.default_rng(0)

    def filled(x):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return jax.numpy.asarray(rng.uniform(0.1, 0.5, x.shape).astype(x.dtype))

    record = recipes.encoder_record(config, image_shape, encoded=is_encoded)
    with folder.lock(directory):
        folder.claim(directory, config, TrainedOn(images=1, sha256="0"), record, recipes.identity)
    with Checkpoints(directory / "checkpoints", keep_every=1) as checkpoints:
        for step in steps:
            checkpoints.save(step, jax.tree.map(filled, like).replace(step=jax.numpy.int32(step)))
    return directory


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    return make(tmp_path_factory.mktemp("runs") / "grey", runs.config(), (9, 8, 8, 1), steps=(1, 2))


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    """Seen are the middle 16 pixels of images resized to 20."""
    config = test_streamed.config("/none")
    return make(tmp_path_factory.mktemp("runs") / "streamed", config, (9, 16, 16, 3), is_encoded=True)


@pytest.fixture(scope="module")
def run(grey):
    return load(grey)


def digits(count=5):
    return np.random.default_rng(1).integers(0, 256, (count, 8, 8, 1), np.uint8)


def same(one, other):
    assert one.dtype == other.dtype == np.float32
    np.testing.assert_array_equal(one, other)


def test_what_a_run_says_of_itself(run, grey):
    assert (run.path, run.step, run.config.method, run.encoder.features) == (grey, 2, "sdclr", 8)
    assert repr(run) == f"<Run {grey}: sdclr on digits, step 2, resnet8, images of 8 x 8 x 1 -> 8 features>"


def test_neither_data_nor_the_rest_of_the_state_are_read(grey, tmp_path):
    run = shutil.copytree(grey, tmp_path / "run")
    for step in (1, 2):
        shutil.rmtree(run / "checkpoints" / str(step) / "state")
    (run / "data.json").unlink()
    assert load(run).encode(digits()).shape == (5, 8)


def test_a_relative_path_goes_on_being_that_run(grey, monkeypatch, tmp_path):
    monkeypatch.chdir(grey.parent)
    run = load("grey", step=1)
    monkeypatch.chdir(tmp_path)
    assert (run.path, run.step) == (grey, 1)
    assert run.encode(digits()).shape == (5, 8)


def test_features_are_those_of_the_evaluation_to_the_bit(run):
    encoder = recipes.frozen_encoder(run.config, parallel.shardings())
    same(run.encode(digits(), progress=True), encoder.features(run.variables, digits()))
    one = run.encode(digits(), devices=jax.devices()[:1])
    np.testing.assert_allclose(run.encode(digits()), one, atol=1e-6)
    plain = run.encode(digits())
    with jax.enable_x64(True):
        same(load(run.path).encode(digits()), plain)


@pytest.mark.parametrize("count", [0, 1])
def test_any_number_of_images(run, count):
    for images in (digits(count), list(digits(count))):
        found = run.encode(images)
        assert found.shape == (count, 8)
        same(found, run.encode(digits(5 if count else 0)[:count]))


def test_images_of_its_size_are_the_same_in_every_form(run, tmp_path):
    expected, pictures = run.encode(digits()), [Image.fromarray(image[:, :, 0]) for image in digits()]
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path, picture in zip(paths, pictures, strict=True):
        picture.convert("RGB").save(path)
    for images in (
        jax.numpy.asarray(digits()),
        list(digits()),
        (image for image in digits()),
        pictures,
        paths,
        np.array([str(path) for path in paths]),
        [paths[0], str(paths[1]), pictures[2], digits()[3], paths[4]],
    ):
        same(run.encode(images), expected)
    same(run.encode(paths, workers=1, batch_size=2), run.encode(digits(), batch_size=2))


def test_a_copy_and_another_process_have_the_run(run):
    expected = run.encode(digits())
    for copied in (copy.deepcopy(run), pickle.loads(pickle.dumps(run))):
        assert copied.path == run.path
        same(copied.encode(digits()), expected)


def test_a_path_may_begin_at_the_home_folder(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("x.png", "~x.png"):
        Image.fromarray(digits(1)[0, :, :, 0]).save(tmp_path / name)
    same(run.encode(["~/x.png", "~x.png"]), run.encode(digits(1).repeat(2, axis=0)))


def test_of_larger_pictures_the_middle_is_seen_at_the_size_of_the_run(run):
    picture = photo(24, 12)
    seen = picture.convert("L").resize((8, 8), Image.Resampling.BICUBIC, (6, 0, 18, 12))
    expected = run.encode(np.asarray(seen)[None, :, :, None])
    same(run.encode([picture]), expected)
    array = np.asarray(picture.convert("L"))[:, :, None]
    for given in (array, jax.device_put(array)):
        same(run.encode([given]), expected)


def test_a_run_on_small_colour_images_takes_them_and_larger_ones(tmp_path):
    colour = ("--config.views.mean=(0.3,0.4,0.5)", "--config.views.std=(0.2,0.3,0.4)")
    run = load(make(tmp_path / "run", runs.config("sdclr", *colour), (9, 8, 8, 3)))
    small = photo(8, 8)
    expected = run.encode(np.asarray(small)[None])
    same(run.encode([small]), expected)
    same(run.encode([photo(16, 16).resize((8, 8), Image.Resampling.BICUBIC)]), run.encode([photo(16, 16)]))
    with pytest.raises(ValueError, match=r"images have shape \(1, 16, 16, 3\): this run takes \[N, 8, 8, 3\]"):
        run.encode(np.asarray(photo(16, 16))[None])


def test_a_run_on_images_that_are_not_square_takes_files_of_any_size(tmp_path):
    colour = ("--config.views.mean=(0.3,0.4,0.5)", "--config.views.std=(0.2,0.3,0.4)")
    run = load(make(tmp_path / "run", runs.config("sdclr", *colour), (9, 8, 12, 3)))
    exact = photo(12, 8)
    exact.save(tmp_path / "exact.png")
    same(run.encode([tmp_path / "exact.png"]), run.encode(np.asarray(exact)[None]))
    large = photo(24, 40, seed=1)  # taller: the middle is 24 x 16
    seen = ImageOps.fit(large, (12, 8), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(seen, int) - np.asarray(large.crop((0, 12, 24, 28)).resize((12, 8)), int)).max() < 40
    same(run.encode([large]), run.encode(np.asarray(seen)[None]))


def test_files_are_seen_as_the_evaluation_sees_them(streamed, tmp_path):
    run, paths = load(streamed), []
    for i in range(4):
        paths.append(tmp_path / f"{i}.jpg")
        paths[i].write_bytes(jpeg(photo(120 + 9 * i, 90, seed=i), orientation=1 + 2 * i))
    encoder = recipes.frozen_encoder(run.config, parallel.shardings())
    files = Files(tmp_path, [path.name for path in paths])
    same(run.encode(paths), encoder.features(run.variables, files))
    assert run.encode(paths[:0]).shape == (0, run.encoder.features)


def test_pictures_in_memory_are_seen_as_files(streamed, tmp_path):
    run, picture = load(streamed), photo(50, 40)
    (tmp_path / "a.png").write_bytes(encoded(picture, "PNG"))
    expected = run.encode([tmp_path / "a.png"])
    for images in ([picture], [np.asarray(picture)], np.asarray(picture)[None]):
        same(run.encode(images), expected)
    transparent = picture.convert("RGBA")
    transparent.putalpha(128)
    (tmp_path / "b.png").write_bytes(encoded(transparent, "PNG"))
    before = transparent.tobytes()
    same(run.encode([transparent]), run.encode([tmp_path / "b.png"]))
    assert transparent.tobytes() == before
    (tmp_path / "c.jpg").write_bytes(jpeg(photo(18, 21), orientation=6))
    with Image.open(tmp_path / "c.jpg") as turned:
        same(run.encode([turned]), run.encode([tmp_path / "c.jpg"]))


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (digits().astype(np.float32), "images has dtype float32: give uint8, 0 to 255"),
        (digits()[..., 0], r"images has shape \(5, 8, 8\): give \[N, H, W, 1\]"),
        (digits()[0], r"images has shape \(8, 8, 1\): give \[N, H, W, 1\]"),
        (digits().repeat(3, 3), r"images has shape \(5, 8, 8, 3\): give \[N, H, W, 1\]"),
        (digits()[:, :4], r"images have shape \(5, 4, 8, 1\): this run takes \[N, 8, 8, 1\]"),
        ([digits()[0].astype(bool)], r"images\[0\] has dtype bool: give uint8"),
        ([digits()[0], digits()[0, :, :, 0]], r"images\[1\] has shape \(8, 8\): give \[H, W, 1\]"),
        ([digits()[0, :0]], r"images\[0\] has shape \(0, 8, 1\)"),
        ("cat.jpg", "images is a str: give a list, of one image too"),
        (3, "images is a int: give a list"),
        (["cat.jpg", 3], r"images\[1\] is a int: give paths, PIL images or uint8 arrays"),
        (["/nowhere/cat.jpg"], r"/nowhere/cat.jpg cannot be read \(No such file or directory\): give paths of images"),
        ([__file__], "test_load.py cannot be read .not an image of a known format.: give paths of images"),
    ],
)
def test_what_cannot_be_encoded(run, images, says):
    with pytest.raises(ValueError, match=says):
        run.encode(images)


def test_a_file_that_is_damaged_is_named(streamed, tmp_path):
    (tmp_path / "cut.png").write_bytes(encoded(photo(50, 40), "PNG")[:900])
    with pytest.raises(UserError, match="cut.png"):
        load(streamed).encode([photo(20, 20), tmp_path / "cut.png"])
    with pytest.raises(ValueError, match="batch_size is 0: it must be a whole number of at least 1"):
        load(streamed).encode([photo(20, 20)], batch_size=0)


MODEL = {"name": "resnet8", "stem": "cifar", "width": 2, "dtype": "float32"}


def edit(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda run: (run / "config.json").unlink(), "holds no run"),
        (lambda run: (run / "config.json").write_text("{"), r"config\.json cannot be used \(not complete JSON\)"),
        (
            lambda run: shutil.rmtree(run / "checkpoints"),
            "has no checkpoint, but saved.json says that it had one of step 2",
        ),
        (lambda run: (run / "encoder.json").write_text("[]"), r"encoder\.json .* \(not an object of fields\)"),
        (lambda run: edit(run / "encoder.json", format=2), "format 2 is not the format 1 that this version reads"),
        (lambda run: edit(run / "encoder.json", std=[0]), "std is not what it should be"),
        (lambda run: edit(run / "encoder.json", model=MODEL | {"width": 3}), "encoder of the checkpoint is not that"),
        (lambda run: edit(run / "encoder.json", model={"name": "resnet9"}), "encoder.json"),
        (
            lambda run: [(run / "encoder.json").unlink(), edit(run / "config.json", model={})],
            r"has no encoder\.json, and its config\.json",
        ),
        (
            lambda run: [shutil.rmtree(run / "checkpoints" / step / "encoder") for step in "12"],
            "no checkpoint in .* can be read",
        ),
    ],
)
def test_what_cannot_be_loaded(grey, tmp_path, damage, says):
    run = shutil.copytree(grey, tmp_path / "run")
    damage(run)
    with pytest.raises(UserError, match=says):
        load(run)


def test_a_step_without_a_checkpoint_and_a_newer_format(grey, monkeypatch):
    for step, said in ((3, "3"), ("1", "'1'")):
        with pytest.raises(UserError, match=f"^there is no checkpoint of step {said} in .*: those there are of 1, 2$"):
            load(grey, step=step)
    assert load(grey, step=1).steps == [1, 2]
    with pytest.raises(UserError, match="nowhere holds no run"):
        load("nowhere")
    monkeypatch.setattr(checkpoints_module, "FORMAT", 1)
    with pytest.raises(UserError, match="checkpoint 2 of .* has format 3, and this version reads formats up to 1"):
        load(grey)


def test_a_run_is_looked_at_as_it_is_open(grey, monkeypatch):
    """At the checkpoint that `load` has read: the newest one may be another by now, or damaged."""
    asked = []

    def noted(*given, **options):
        asked.append(options.get("step", options.get("until")))
        return given, None

    monkeypatch.setattr("sdclr_jax.api.evaluate.evaluate_run", noted)
    monkeypatch.setattr("sdclr_jax.api.exemplars.exemplars_of_run", noted)
    for run in (load(grey, step=1), load(grey), grey, str(grey)):
        evaluate(run)
        exemplars(run)
    assert asked == [1, 1, 2, 2, None, None, None, None]
    like = recipes.abstract_state(runs.config(), (9, 8, 8, 1), parallel.shardings(jax.devices()[:1]))
    for step, expected in ((1, 1), (2, 2), (None, 2)):
        assert _dense(grey, like, step)[0] == expected


def test_a_run_at_an_earlier_checkpoint_is_exported_as_it_is_open(grey, tmp_path):
    for name, run, options in [("door", load(grey, step=1), {}), ("named", load(grey), {"step": 1})]:
        written = export(run, "timm", tmp_path / name, **options)
        assert "seed 0, step 1 |" in (written / "README.md").read_text()
    assert "seed 0, step 2 |" in (export(grey, "timm", tmp_path / "folder") / "README.md").read_text()


def test_a_run_that_goes_on_with_another_crop_encodes_by_it(streamed, tmp_path):
    directory = shutil.copytree(streamed, tmp_path / "run")
    before, config = load(directory).encoder, recipes.read(directory)
    config.evaluate.crop, config.evaluate.resize = 12, 18
    record = recipes.encoder_record(config, (9, 16, 16, 3), encoded=True)
    folder.claim(directory, config, TrainedOn(images=1, sha256="0"), record, recipes.identity)
    after = load(directory).encoder
    assert (after.resize, after.crop) == (18, 12) != (before.resize, before.crop)


def test_a_vit_that_is_evaluated_on_larger_images_than_its_views_encodes_and_leaves_as_it_is_evaluated(tmp_path):
    config = test_streamed.config("/none", "--config.evaluate.crop=24", "--config.evaluate.resize=30")
    recipes.override(config, {"model": {"name": "vit_tiny", "patch": 4, "width": 8, "depth": 1, "heads": 2}})
    directory = make(tmp_path / "run", config, (9, 16, 16, 3), is_encoded=True)
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        trained = checkpoints.encoder()[1]
    run = load(directory)
    assert trained["params"]["pos_embed"].shape == (1, 17, 8) and run.variables["params"]["pos_embed"].shape == (
        1,
        37,
        8,
    )
    pictures = [np.asarray(photo(40, 30, seed=i)) for i in range(2)]
    one = jax.devices()[:1]
    evaluated = recipes.frozen_encoder(config, parallel.shardings(one)).features(trained, Pictures(pictures))
    np.testing.assert_allclose(run.encode(pictures, devices=one), evaluated, atol=1e-6 * np.abs(evaluated).max())
    with interop.opened(run.export("timm", tmp_path / "timm") / "model.safetensors") as tensors:
        np.testing.assert_array_equal(tensors["pos_embed"].read(), run.variables["params"]["pos_embed"])


@pytest.mark.parametrize("shape", [(1, 18, 8), (1, 17, 4), (17, 8)])
def test_position_embeddings_that_are_no_square_grid_or_of_another_width_are_refused(tmp_path, shape):
    config = runs.config()
    recipes.override(config, {"model": {"name": "vit_tiny", "patch": 4, "width": 8, "depth": 1, "heads": 2}})
    record = recipes.encoder_record(config, (9, 8, 8, 1), encoded=False)
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), recipes.encoder_shapes(record))
    variables["params"]["pos_embed"] = np.zeros(shape, np.float32)
    with pytest.raises(UserError, match=r"is not that of encoder\.json or config\.json \(params/pos_embed differs\)"):
        _fitted(tmp_path, record, variables)
