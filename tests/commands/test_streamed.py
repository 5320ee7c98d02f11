"""A run on a folder of photographs of many sizes, decoded as they are needed: pretrain, resume, evaluate."""

import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest

from sdclr_jax import parallel, recipes, records
from sdclr_jax.api.evaluate import evaluate
from sdclr_jax.api.exemplars import exemplars
from sdclr_jax.api.pretrain import train
from sdclr_jax.commands import flags, main
from sdclr_jax.data import batches
from sdclr_jax.data.batches import Streamed
from sdclr_jax.data.images import Encoded
from sdclr_jax.data.workers import Croppers
from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import finetuning, frozen
from tests.photos import jpeg, photo
from tests.runs import TINY, assert_same_bits, lines

pytestmark = pytest.mark.usefixtures("one_trace")
ROOT = pathlib.Path(__file__).parents[2]
FIELDS = (
    *TINY,
    "--config.epochs=2",
    "--config.batch_size=8",
    "--config.model.name=resnet8",
    "--config.data.n_max=8",
    "--config.data.imbalance=2",
    "--config.data.validation_per_class=2",
    "--config.data.few_shot_per_class=2",
    "--config.data.workers=1",
    "--config.data.last_batch=dropped",  # of 17 images one would be left
    "--config.views.size=16",
    "--config.views.blur_probability=(1.0, 0.1)",
    "--config.views.solarize_probability=(0.0, 0.2)",
    "--config.evaluate.resize=20",
    "--config.evaluate.crop=16",
    "--config.evaluate.batch_size=16",
    "--config.evaluate.sgd_batch_size=8",
    "--config.evaluate.full_epochs=2",
    "--config.evaluate.full_drops=(1,)",
    "--config.evaluate.few_shot_epochs=1",
    "--config.evaluate.knn_k=3",
)


def arguments(folder, directory, *more):
    name = f"--config.data.name=folder:{folder}"
    return [f"--config={ROOT / 'configs' / 'base.py'}", f"--workdir={directory}", name, *FIELDS, *more]


def config(folder, *more):
    return flags.pretrain(arguments(folder, "unused", *more), "").config


def run(config, directory):
    return train(config, directory, devices=jax.devices()[:1])


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """40 photographs of many sizes and three classes, 30 of them to train on; what is known of them lies beside."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(40):
        path = folder / ("train" if i < 30 else "test") / "abc"[i % 3] / f"{i:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(photo(20 + i, 60 - i, seed=i), orientation=1 + i % 8))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("SDCLR_DATA", str(tmp_path_factory.mktemp("data")))
        yield folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, folder):
    directory = tmp_path_factory.mktemp("runs") / "whole"
    return directory, run(config(folder), directory)


def test_a_run_on_files(finished):
    directory, state = finished
    lines = records.read_metrics(directory / "metrics.jsonl")
    assert int(state.step) == lines[-1]["step"] == 4  # 17 images in the long tail
    assert [line["unreadable_images"] for line in lines] == [0] * len(lines)
    assert all(np.isfinite(line["loss"]) and line["data_wait_seconds"] >= 0 for line in lines)


def test_a_stopped_run_goes_on_exactly_with_other_workers(finished, folder, tmp_path, monkeypatch):
    """To the bit: batches do not depend on who decodes them."""
    whole, expected = finished
    from_step = Streamed.from_step

    def crash(self, step):
        for batch, _ in zip(from_step(self, step), range(3), strict=False):
            yield batch
        raise RuntimeError("crash")

    monkeypatch.setattr(Streamed, "from_step", crash)
    with pytest.raises(RuntimeError, match="crash"):
        run(config(folder), tmp_path / "run")
    monkeypatch.setattr(Streamed, "from_step", from_step)
    monkeypatch.setattr("sdclr_jax.recipes.images.Streamed", lambda *a, **k: Streamed(*a, **k | {"workers": 0}))
    assert_same_bits(run(config(folder), tmp_path / "run"), expected)
    assert lines(tmp_path / "run") == lines(whole)


def test_files_cannot_lie_on_the_devices(folder, tmp_path):
    with pytest.raises(UserError, match=r"^data\.input is 'resident', but the images of folder:.* set it to 'auto'$"):
        run(config(folder, "--config.data.input=resident"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_photos_that_have_moved_are_found_and_that_is_remembered(finished, folder, tmp_path, monkeypatch, capsys):
    directory = shutil.copytree(finished[0], tmp_path / "run")
    moved = shutil.copytree(folder, tmp_path / "moved")
    for path in (shutil.copytree(folder, tmp_path / "others") / "train" / "a").iterdir():
        path.rename(path.with_stem(f"other_{path.stem}"))
    monkeypatch.chdir(tmp_path)
    knn = ["evaluate", str(directory), "--config.evaluate.protocols=('knn',)", "--config.evaluate.map_images=0"]
    for command in (knn, ["exemplars", str(directory), "--noprogress"]):
        assert main.main([*command, "--config.data.name=folder:others"]) == 2
        assert "was trained on 17 images" in capsys.readouterr().err
        assert main.main([*command, "--config.data.n_max=9"]) == 2
        assert "config.data.n_max=9 would make it another run" in capsys.readouterr().err
    assert recipes.read(directory).data.name == f"folder:{folder}"
    assert main.main([*knn, "--config.data.name=folder:moved", "--config.data.workers=0"]) == 0
    assert recipes.read(directory).data.name == f"folder:{moved}"
    assert recipes.read(directory).data.workers == 1
    for call in (evaluate, exemplars):
        with pytest.raises(UserError, match=r"config\.data\.n_max=9 would make it another run"):
            call(directory, data={"n_max": 9})
        with pytest.raises(UserError, match="was trained on 17 images"):
            call(directory, data={"name": "folder:others"})
    evaluate(directory, protocols=["knn"], settings={"map_images": 0}, data={"name": f"folder:{folder}"})
    assert recipes.read(directory).data.name == f"folder:{folder}"
    resumed = run(config("moved", "--config.log_every=3"), directory)
    assert_same_bits(resumed, finished[1])
    assert recipes.read(directory).log_every == 3


def test_photos_that_have_one_size_now_are_refused(finished, folder, tmp_path):
    """Their names are the same, and they would be seen whole, where they were cropped."""
    directory, same = shutil.copytree(finished[0], tmp_path / "run"), shutil.copytree(folder, tmp_path / "same")
    for path in same.rglob("*.jpg"):
        path.write_bytes(jpeg(photo(30, 30)))
    before = {path: path.read_bytes() for path in directory.glob("*.json*")}
    for call in (
        lambda: run(config(same), directory),
        lambda: evaluate(directory, protocols=["knn"], data={"name": f"folder:{same}"}),
        lambda: exemplars(directory, data={"name": f"folder:{same}"}),
    ):
        with pytest.raises(UserError, match="run: the images were cropped, .* and are of one size, 30 x 30 x 3, now:"):
            call()
    assert {path: path.read_bytes() for path in directory.glob("*.json*")} == before


def test_measuring_while_it_trains_changes_nothing(finished, folder, tmp_path):
    directory, state = finished
    assert_same_bits(run(config(folder, "--config.evaluate.every=1"), tmp_path / "run"), state)
    measured = [line for line in lines(tmp_path / "run") if "knn/all" in line]
    assert [line["step"] for line in measured] == [2, 4]
    for line in measured:
        assert 0 <= line["probe/all"] <= 1
        assert 0 <= line["knn/few"] <= 1


def counted(monkeypatch) -> list[int]:
    """How many images each pass over a set decodes."""
    passes, in_order = [], batches.in_order

    def spy(images, *more):
        if isinstance(images, Encoded):
            passes.append(len(images))
        return in_order(images, *more)

    monkeypatch.setattr(batches, "in_order", spy)
    return passes


def test_what_is_measured_again_is_decoded_once_if_there_is_room(finished, folder, tmp_path, monkeypatch):
    """The numbers are the same to the bit."""
    passes, measured = counted(monkeypatch), []
    c = config(folder, "--config.evaluate.every=1", "--config.data.workers=0")
    data, shardings = recipes.data(c, None), parallel.shardings(jax.devices()[:1])
    sizes = [len(data.part(part).ids) for part in ("probe_train", "validation")]
    assert all(sizes)
    for room in (max(sizes) * 16 * 16 * 3, max(sizes) * 16 * 16 * 3 - 1, 0):
        monkeypatch.setattr(frozen, "KEPT_BYTES", room)
        online = recipes.online_probe(c, data, shardings)
        measured += [online.measure(finished[1]) for _ in range(3)]
    assert all(found == measured[0] for found in measured)
    large, small = max(sizes), min(sizes)
    assert large > small
    assert sorted(passes) == sorted([*sizes, small, *[large] * 3, *sizes * 3])


def test_fine_tuning_decodes_validation_images_once(finished, tmp_path, monkeypatch):
    """The fit is played: it asks for their features after each epoch."""

    def fit(encoder, variables, views_of, labels, validation_features, *_, num_classes, epochs, **settings):
        for _ in range(epochs):
            features = validation_features(variables)
        kernel = features[:num_classes].T  # of any numbers: the same in both cases
        return finetuning.FineTuned(variables, kernel, np.zeros(num_classes, np.float32), epochs, 0.5, ())

    monkeypatch.setattr(finetuning, "fit", fit)
    passes, found = counted(monkeypatch), []
    # Features of all labelled and of test images; those of validation, in three epochs; of test images, tuned twice.
    for room, expected in ((2**30, 2 + 1 + 2), (0, 2 + 3 + 2)):
        passes.clear()
        monkeypatch.setattr(frozen, "KEPT_BYTES", room)
        shutil.copytree(finished[0], tmp_path / str(room))
        shutil.rmtree(tmp_path / str(room) / "features", ignore_errors=True)
        argv = ["evaluate", str(tmp_path / str(room)), "--config.evaluate.fine_tune_epochs=(2, 1)"]
        assert main.main([*argv, "--config.evaluate.protocols=('fine_tune_1', 'fine_tune_10')"]) == 0
        assert len(passes) == expected
        found.append(json.loads((tmp_path / str(room) / "results.json").read_text()))
    assert found[0]["protocols"].keys() == {"fine_tune_1", "fine_tune_10"}
    assert found[0] == found[1]


def test_processes_that_decode_end_when_an_encoder_fails(folder, monkeypatch):
    c, closed, close = config(folder), [], Croppers.close
    monkeypatch.setattr(Croppers, "close", lambda self: closed.append(1) or close(self))
    data, shardings = recipes.data(c, None), parallel.shardings(jax.devices()[:1])
    with pytest.raises(Exception, match="params") as held:  # as a notebook holds on to it, and to all its variables
        recipes.frozen_encoder(c, shardings).features({}, data.test.images)
    assert closed, held


def test_its_evaluation(finished, folder, capsys):
    directory, _ = finished
    assert main.main(["evaluate", str(directory)]) == 0
    results = json.loads((directory / "results.json").read_text())
    settings = results["protocols"]["linear_full"]["settings"]
    assert settings["crop_scale"] == [0.08, 1.0]
    assert settings["flip"] == 0.5
    assert "padding" not in settings
    assert len(results["protocols"]["knn"]["per_class"]) == 3
    assert main.main(["evaluate", str(directory), "--config.evaluate.augment=False"]) == 0
    fixed = json.loads((directory / "results.json").read_text())
    assert fixed["protocols"]["linear_full"]["settings"]["augment"] is False
    assert fixed["protocols"]["knn"] == results["protocols"]["knn"]
    fine_tune = ["--config.evaluate.protocols=('fine_tune_10',)", "--config.evaluate.fine_tune_epochs=(1, 2)"]
    assert main.main(["evaluate", str(directory), *fine_tune]) == 0
    protocols = json.loads((directory / "results.json").read_text())["protocols"]
    assert protocols["fine_tune_10"]["settings"]["crop_scale"] == [0.08, 1.0]
    assert protocols["fine_tune_10"]["settings"]["images"] == 3  # one a class
    assert protocols["knn"] == results["protocols"]["knn"]
    before = (directory / "results.json").read_text()
    # Damaged after it was looked at, as a failing disk would: size and time are as they were. What was kept is gone.
    shutil.rmtree(directory / "features")
    path = folder / "test" / "a" / "33.jpg"
    content, status = path.read_bytes(), path.stat()
    path.write_bytes(bytes(len(content)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert main.main(["evaluate", str(directory)]) == 2
    path.write_bytes(content)
    assert "33.jpg cannot be read (not an image of a known format): put it back" in capsys.readouterr().err
    assert (directory / "results.json").read_text() == before


BAD = {
    "workers": (["--config.data.workers=-2"], "data.workers is -2: it must be at least -1"),
    "prefetch": (["--config.data.prefetch=0"], "data.prefetch is 0: it must be at least 1"),
    "resize": (["--config.evaluate.crop=21"], "evaluate.resize is 20: it must be at least evaluate.crop, 21"),
    "crop": (["--config.evaluate.crop=0"], "evaluate.crop is 0"),
    "scale": (["--config.evaluate.crop_scale=(0.5, 0.2)"], "evaluate.crop_scale is (0.5, 0.2): it must be two"),
    "blur": (["--config.views.blur_probability=(1.0, 2.0)"], "views.blur_probability is (1.0, 2.0): it must be"),
    "blurs": (["--config.views.blur_probability=(1.0, 0.1, 0.5)"], "is (1.0, 0.1, 0.5): it must be one number, or 2"),
    "word": (["--config.views.solarize_probability='often'"], "views.solarize_probability is often: it must be"),
    "stem": (["--config.model.stem=imagenet"], "model.stem is 'imagenet', which leaves views of 16 x 16 with 4 x 4"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_anything_is_written(name, folder, tmp_path, capsys):
    more, sentence = BAD[name]
    assert main.main(["pretrain", *arguments(folder, tmp_path / "run", "--noprogress"), *more]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_views_for_tiny_pictures_are_refused(folder):
    digits = flags.pretrain([f"--config={ROOT / 'configs' / 'digits_lt.py'}:simclr", "--workdir=x"], "").config
    digits.data.name = f"folder:{folder}"
    with pytest.raises(UserError, match="views.name 'digits' leaves images as large as they are"):
        recipes.data(digits, None)
