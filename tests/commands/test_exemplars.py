"""`sdclr exemplars` on two tiny runs as a user calls it: what it writes, what it leaves alone, what it refuses."""

import csv
import json
import re
import shutil
import types

import jax
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from sdclr_jax import parallel, recipes
from sdclr_jax.api import exemplar_files, exemplars
from sdclr_jax.api.pretrain import train
from sdclr_jax.commands import exemplars as exemplars_command
from sdclr_jax.commands import flags, main
from sdclr_jax.data import decoding, sources, thumbnails
from sdclr_jax.data.images import Files
from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import frozen, pruning_probe
from sdclr_jax.reports import extras
from sdclr_jax.run.checkpoints import Checkpoints
from tests.photos import jpeg, photo
from tests.runs import ROOT, TINY, config

RUNS = ("zero", "one")
QUICK = ("--rates=0.5,0.9", "--views=1", "--gallery=50", "--neighbours=3")


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two runs whose long tails share some images, measured together: their folder, and what was there before."""
    folder = tmp_path_factory.mktemp("runs")
    data_dir = folder / "data"
    train(config("sdclr", "--config.keep_every=1"), folder / "zero", str(data_dir), devices=jax.devices()[:1])
    shutil.copytree(folder / "zero", folder / "one")  # the same weights, held against other images
    fields = json.loads((folder / "one" / "config.json").read_text())
    fields["data"]["seed"] = 1
    (folder / "one" / "config.json").write_text(json.dumps(fields))
    before = files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning_probe, "CALIBRATION", 2)
        on_one_device(patch)
        argv = ["exemplars", *(str(folder / name) for name in RUNS), f"--data_dir={data_dir}", *QUICK]
        assert main.main([*argv, f"--overlap={folder / 'overlap.json'}"]) == 0
    return folder, before


def on_one_device(patch):
    """Eight pretended ones on two cores are slow; tests/evaluation/test_pruning_probe.py holds one against eight."""
    one = parallel.shardings(jax.devices()[:1])
    patch.setattr(exemplars.parallel, "shardings", lambda: one)


def read(folder):
    """summary.json, and the rows of exemplars.csv."""
    with (folder / "exemplars" / "exemplars.csv").open(newline="", encoding="utf-8-sig") as file:
        return json.loads((folder / "exemplars" / "summary.json").read_text()), list(csv.DictReader(file))


def test_it_writes_its_own_folder_and_touches_nothing_else(measured):
    folder, before = measured
    after = files(folder)
    names = ("exemplars.csv", "exemplars.parquet", "gallery.html", "summary.json")
    new = {f"{run}/exemplars/{name}" for run in RUNS for name in names} | {"overlap.json"}
    assert {str(p) for p in after.keys() - before.keys()} == new
    assert all(after[p] == content for p, content in before.items())


def test_the_ranking_names_every_image_once_and_both_files_agree(measured):
    folder, _ = measured
    summary, rows = read(folder / "zero")
    train = sources.source("digits", folder / "data").load("train")
    labels = dict(zip(train.ids.tolist(), train.labels.tolist(), strict=True))
    assert len({row["id"] for row in rows}) == len(rows) == summary["data"]["images"] == 369
    assert [int(row["rank"]) for row in rows] == list(range(1, 370))
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert all(row["score"] == row["features_0.9"] for row in rows)
    assert all(int(row["label"]) == labels[row["id"]] for row in rows)
    assert all(row["class"] == train.class_names[int(row["label"])] for row in rows)
    assert [name for name in rows[0] if "_" in name] == ["neighbour_distance", "label_disagreement"] + [
        f"{name}_{rate}" for rate in (0.5, 0.9) for name in ("features", "projections", "loss", "loss_rise")
    ]
    for rate in (0.5, 0.9):  # what the loss rises from is the loss of the whole network
        risen = [float(row[f"loss_{rate}"]) - float(row[f"loss_rise_{rate}"]) for row in rows]
        assert [float(row["loss"]) for row in rows] == pytest.approx(risen, abs=1e-5)
    table = pyarrow.parquet.read_table(folder / "zero" / "exemplars" / "exemplars.parquet").to_pylist()
    assert [{k: type(row[k])(v) for k, v in line.items()} for row, line in zip(table, rows, strict=True)] == table


def test_an_image_is_as_far_from_its_ten_nearest_as_scikit_learn_finds(measured):
    """Of the features that `sdclr evaluate` would score: the encoder's as it was trained, of the images as they are.
    What one device wrote is held against the features that eight compute."""
    directory = measured[0] / "zero"
    run, shardings = recipes.read(directory), parallel.shardings(jax.devices()[:8])
    assert shardings.batch.num_devices == 8
    examples = recipes.data(run, measured[0] / "data").part(run.data.subset)
    with Checkpoints(directory / "checkpoints", read_only=True) as kept:
        state = kept.restore(like=recipes.abstract_state(run, recipes.image_shape(run, examples.images), shardings))
    features = recipes.frozen_encoder(run, shardings).features(
        frozen.encoder_variables(frozen.dense(state)), examples.images
    )
    distances, near = NearestNeighbors(n_neighbors=10, metric="cosine").fit(features).kneighbors()
    summary, rows = read(directory)
    by_id = {row["id"]: row for row in rows}
    found = [float(by_id[image]["neighbour_distance"]) for image in examples.ids]
    np.testing.assert_allclose(found, distances.mean(axis=1), atol=1e-6)
    disagreement = [float(by_id[image]["label_disagreement"]) for image in examples.ids]
    expected = (examples.labels[near] != examples.labels[:, None]).mean(axis=1)
    assert 0 < np.mean(expected) < 1
    # Neighbours of rank ten that are equally far may change places.
    np.testing.assert_allclose(disagreement, expected, atol=0.1 + 1e-9)
    assert np.mean(disagreement == expected) > 0.99
    assert summary["settings"]["nearest_images"] == 10


def test_shares_of_the_last_checkpoint_follow_from_the_ranking(measured):
    summary, rows = read(measured[0] / "zero")
    assert summary["ranked_by"] == {"score": "features", "rate": 0.9}
    assert [point["epoch"] for point in summary["checkpoints"]] == [1.0, 2.0, 3.0]
    shares = summary["checkpoints"][-1]["rates"][-1]["scores"]["features"]["shares"]
    groups = summary["data"]["class_groups"]
    counts = sorted((sum(int(row["label"]) == c for row in rows), c) for c in range(10))
    rarer = {c for _, c in counts[:5]}
    for part in shares:
        top = rows[: part["images"]]
        assert part["images"] == {0.01: 4, 0.05: 19, 0.1: 37}[part["fraction"]]
        expected = {g: np.mean([groups[int(row["label"])] == g for row in top]) for g in ("many", "medium", "few")}
        expected["rarer_half"] = np.mean([int(row["label"]) in rarer for row in top])
        assert {name: share["share"] for name, share in part["groups"].items()} == pytest.approx(expected)
        of_all = np.mean([int(row["label"]) in rarer for row in rows])
        assert part["groups"]["rarer_half"]["expected"] == pytest.approx(of_all)
        assert all(row["group"] == groups[int(row["label"])] for row in rows)


def test_masks_and_forgotten_sets_are_followed_over_training(measured):
    summary, _ = read(measured[0] / "zero")
    first, second, third = (point["rates"][-1] for point in summary["checkpoints"])
    assert first["mask"]["since_previous"] is None
    assert first["mask"]["since_first"]["jaccard"] == 1
    assert second["mask"]["since_previous"] == second["mask"]["since_first"]
    assert third["mask"]["since_first"]["jaccard"] <= 1
    assert 0.5 < third["mask"]["since_previous"]["jaccard"] <= 1 > third["mask"]["since_previous"]["chance"]
    densities = third["mask"]["density"]
    assert "encoder/stem" in densities
    assert all(0 <= density <= 1 for density in densities.values())
    assert first["scores"]["features"]["since_previous"] is None
    overlap = third["scores"]["features"]["since_previous"]
    assert [part["fraction"] for part in overlap["sets"]] == [0.01, 0.05, 0.1]


def test_reports_read_it(measured):
    folder, _ = measured
    written, _ = read(folder / "zero")
    found = extras.exemplars(types.SimpleNamespace(path=folder / "zero"))
    assert found.to_json() == written
    assert extras.way(found) == ("features", 0.9, written["settings"]["against"])


def test_a_file_that_is_no_overlap_is_not_replaced(measured, tmp_path, capsys):
    folder, _ = measured
    other = tmp_path / "notes.json"
    for content in ("[1]", '{"mine": 1}', "my notes"):
        other.write_text(content)
        assert main.main(["exemplars", *(str(folder / name) for name in RUNS), f"--overlap={other}"]) == 2
        assert f"--overlap={other} is there, and is no such file: give another name" in capsys.readouterr().err
        assert other.read_text() == content


def test_overlap_of_runs_is_over_the_images_that_both_have(measured):
    folder, _ = measured
    (pair,) = json.loads((folder / "overlap.json").read_text())["pairs"]
    rows = [{row["id"]: float(row["score"]) for row in read(folder / run)[1]} for run in RUNS]
    common = sorted(rows[0].keys() & rows[1].keys())
    assert pair["common_images"] == len(common)
    assert 20 < len(common) < 369
    assert pair["runs"] == list(RUNS)
    k = -(-len(common) // 10)
    tops = [set(sorted(common, key=lambda image: -scores[image])[:k]) for scores in rows]
    tenth = pair["sets"][-1]
    assert tenth["images"] == k
    assert tenth["jaccard"] == pytest.approx(len(tops[0] & tops[1]) / len(tops[0] | tops[1]))


def test_the_page_has_the_first_images_of_every_ranking_and_their_neighbours(measured):
    _, rows = read(measured[0] / "zero")
    text = (measured[0] / "zero" / "exemplars" / "gallery.html").read_text()
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    shown = data["images"][: data["shown"]]
    assert len(shown) == 50 and [image[3] for image in shown] == sorted(image[3] for image in shown)
    ids, found = {row["id"]: int(row["rank"]) for row in rows}, {image[0] for image in shown}
    assert all(ids[image[0]] == image[3] for image in shown)
    assert {row["id"] for row in (*rows[:10], *rows[-10:])} <= found
    for name in ("neighbour_distance", "label_disagreement", "loss"):
        highest = max(float(row[name]) for row in rows)
        assert found & {row["id"] for row in rows if float(row[name]) == highest}
    assert all(len(image[5]) == 3 and i not in image[5] for i, image in enumerate(shown))
    assert all(not image[5] for image in data["images"][data["shown"] :])
    assert "Here are 50 of 369 images" in text


def test_a_checkpoint_that_the_run_drops_meanwhile_is_left_out(measured, tmp_path, monkeypatch):
    folder, _ = measured
    shutil.copytree(folder / "one", tmp_path / "one")
    steps = sorted(int(path.name) for path in (tmp_path / "one" / "checkpoints").iterdir())
    measure = pruning_probe.PruningProbe.measure

    def meanwhile(self, state):
        shutil.rmtree(tmp_path / "one" / "checkpoints" / str(steps[1]), ignore_errors=True)
        return measure(self, state)

    monkeypatch.setattr(pruning_probe.PruningProbe, "measure", meanwhile)
    on_one_device(monkeypatch)
    argv = ["exemplars", str(tmp_path / "one"), f"--data_dir={folder / 'data'}", *QUICK, "--against=pruned"]
    assert main.main(argv) == 0
    summary, _ = read(tmp_path / "one")
    assert [checkpoint["step"] for checkpoint in summary["checkpoints"]] == [steps[0], *steps[2:]]


def test_what_is_there_of_later_checkpoints_is_named_before_it_is_replaced(measured, monkeypatch, capsys):
    folder, _ = measured
    last = read(folder / "zero")[0]["checkpoints"][-1]["step"]

    def no_data(config, data_dir):
        raise UserError("no data")

    monkeypatch.setattr(recipes, "data", no_data)
    for step, said in ((last, ""), (last - 1, f"of checkpoints up to step {last}, and will be of")):
        with pytest.raises(UserError, match="no data"):
            exemplars.exemplars(types.SimpleNamespace(path=folder / "zero", step=step))
        told = capsys.readouterr().err
        assert said in told and bool(said) == bool(told)


def test_images_without_labels(measured, tmp_path, monkeypatch):
    folder, _ = measured
    real = recipes.data

    def unlabelled(config, data_dir):
        data = real(config, data_dir)
        train = data.train._replace(class_names=(), labels=np.full(len(data.train.labels), -1, np.int32))
        return data._replace(train=train)

    monkeypatch.setattr(recipes, "data", unlabelled)
    on_one_device(monkeypatch)
    written = []
    for module in (exemplar_files.sheets, exemplar_files.files, exemplars.records):
        monkeypatch.setattr(module, "write", lambda path, content: written.append(content))
    argv = ["exemplars", str(folder / "one"), f"--data_dir={folder / 'data'}", *QUICK]
    assert main.main([*argv, "--against=pruned"]) == 0
    table, page, summary = written
    assert table.column_names[:4] == ["rank", "id", "path", "score"]
    assert summary.last.rates[-1].scores["features"].shares[-1].groups == {}
    assert b'name="only"' not in page


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["/nonexistent/run"], "holds no run"),
        (["RUN", "--rates=0.5,high"], "give numbers with commas between"),
        (
            ["RUN", "--rates=0.5,1.0"],
            "--rates is (0.5, 1.0): it must be different numbers, each at least 0",
        ),
        (["RUN", "--rates=0.5,0.5"], "--rates is (0.5, 0.5): it must be different numbers"),
        (["RUN", "--views=-1"], "--views is -1"),
        (["RUN", "--gallery=0"], "--gallery is 0"),
        (["RUN", "--neighbours=369"], "--neighbours is 369: it must be at most 100"),
        (["RUN", "RUN"], "two runs have one name"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(measured, capsys, argv, sentence):
    folder, _ = measured
    before = files(folder)
    argv = [str(folder / "zero") if arg == "RUN" else arg for arg in argv]
    assert main.main(["exemplars", *argv, f"--data_dir={folder / 'data'}"]) == 2
    assert sentence in capsys.readouterr().err
    assert files(folder) == before


def test_an_overlap_that_could_not_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file is a file"):
        exemplars_command._options(["a", "b", f"--overlap={tmp_path / 'file' / 'overlap.json'}"])


def test_the_rarer_half_of_the_classes_is_rounded_down():
    """One class is not the rarer half of itself."""
    for counts, expected in {(30,): [], (9, 30): [0], (5, 9, 30): [0], (7, 7, 7, 7): [2, 3]}.items():
        assert exemplars._by_group(np.array(counts), ("many",) * len(counts))["rarer_half"] == expected
    assert exemplars._by_group(np.array([30]), ()) == {}


def test_thumbnails_keep_their_shape_whatever_the_image(tmp_path):
    grey = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8, 1)
    found = thumbnails.make(grey, np.array([1, 0]))
    assert found.shape == (2, 8, 8, 3)
    assert (found[0] == grey[1]).all()
    Image.new("RGB", (200, 100), (250, 0, 0)).save(tmp_path / "wide.png")
    Image.new("RGB", (20, 40), (0, 0, 250)).save(tmp_path / "small.png")
    encoded = Files(tmp_path, np.array(["small.png", "wide.png"]))
    small, wide = thumbnails.make(encoded, np.array([0, 1]))
    assert wide.shape == (64, 64, 3)
    assert wide[32, 32].tolist() == [250, 0, 0]
    assert wide[0, 32].tolist() == [128, 128, 128]
    assert (small == [0, 0, 250]).all(axis=-1).sum() == 20 * 40


def test_thumbnails_are_made_one_at_a_time_of_small_pictures_and_what_is_lost_is_grey(tmp_path, monkeypatch, caplog):
    (tmp_path / "wide.jpg").write_bytes(jpeg(photo(1024, 512)))
    for name, content in {"cut.jpg": jpeg(photo(90, 90))[:900], "none.png": b"", "go\nne.jpg": None}.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    sizes, opened, decode = [], [], decoding.decode

    def decoded(*args):
        found = decode(*args)
        sizes.append(found.image.size)
        opened.append(found.image)
        assert sum(image.width > 64 for image in opened) == 1  # the others are thumbnails by now
        return found

    monkeypatch.setattr(decoding, "decode", decoded)
    images = Files(tmp_path, np.array(["cut.jpg", "wide.jpg", "none.png", "go\nne.jpg", "wide.jpg"]))
    found = thumbnails.make(images, np.arange(5))
    assert sizes == [(128, 64)] * 2 and found.shape == (5, 64, 64, 3)  # an eighth of each side
    whole = np.asarray(photo(1024, 512).resize((64, 32)), int)
    assert np.abs(found[1][16:48] - whole).mean() < 4 and (found[4] == found[1]).all()
    assert (found[[0, 2, 3]] == 128).all()
    (said,) = caplog.messages
    assert "cannot be read any more, and are grey: 3, such as " in said and "cut.jpg (image file is truncated" in said
    assert thumbnails.make(images, np.array([3])).shape == (1, 1, 1, 3) and "go\\nne.jpg (No such" in caplog.messages[1]


def test_photos_of_many_sizes_without_labels(tmp_path, monkeypatch, capsys):
    """A folder of one's own, from pretraining to the page: decoded as they are needed, ranked by their files."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i:02}.jpg").write_bytes(jpeg(photo(20 + i, 60 - i, seed=i)))
    fields = (
        f"--config={ROOT / 'configs' / 'base.py'}", f"--workdir={tmp_path / 'run'}", *TINY,
        f"--config.data.name=folder:{folder}", "--config.data.profile=as_is", "--config.epochs=2",
        "--config.batch_size=8", "--config.model.name=resnet8", "--config.views.size=16", "--config.data.workers=0",
        "--config.evaluate.resize=20", "--config.evaluate.crop=16",
    )  # fmt: skip
    train(flags.pretrain(list(fields), "").config, tmp_path / "run", str(tmp_path), devices=jax.devices()[:1])
    monkeypatch.setattr(pruning_probe, "CALIBRATION", 2)
    on_one_device(monkeypatch)
    assert main.main(["exemplars", str(tmp_path / "run"), f"--data_dir={tmp_path}", *QUICK]) == 0
    summary, rows = read(tmp_path / "run")
    said = capsys.readouterr()
    assert f"exemplars.csv has all {len(rows)} training images" in said.out
    last = summary["checkpoints"][-1]["step"]
    assert re.search(rf"step {last}: 100%.* {len(rows)}/{len(rows)} ", said.err)
    assert len(rows) == len({row["id"] for row in rows}) == summary["data"]["images"] >= 10
    assert all(row["path"] == str(folder / row["id"]) for row in rows)
    assert all(float(row["score"]) > 0 for row in rows)
    assert "class" not in rows[0]
    assert summary["data"]["class_names"] == []
