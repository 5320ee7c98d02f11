"""What stands in the lists of a folder, and in which order, by scores that are given; and what the network is asked."""

import itertools
import json
import pathlib
import types

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from sdclr_jax import files, parallel, recipes
from sdclr_jax.api import collection, lists, photos
from sdclr_jax.data.copies import Copies
from sdclr_jax.data.images import Files
from sdclr_jax.data.sources.folders import Skipped
from sdclr_jax.evaluation import curation

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "run_f1e7a00"
COUNT = 25
FIRST_COPY, SECOND_COPY, ALONE, IN_A_GROUP = 0, 24, 3, 7


@pytest.fixture(scope="module")
def found():
    """The lists of 25 pictures, the last a copy of the first. The first two features of a picture are its distances to
    its neighbours and to the others; two labels are suspect; how pruning changes the last one is not known."""
    suspect, probability = np.isin(np.arange(COUNT), (5, 9)), np.full(COUNT, 0.9)
    probability[[5, 9]] = 0.2, 0.05
    issues = curation.LabelIssues(suspect, probability, np.where(suspect, 1, 0))
    rng = np.random.default_rng(0)
    features = np.stack([np.linspace(1, 1.5, COUNT), np.linspace(1.5, 1, COUNT), rng.normal(size=COUNT)], axis=1)
    features[[FIRST_COPY, ALONE], 0] = 1e6
    features[IN_A_GROUP, 1] = 1e4
    pictures = rng.integers(0, 256, (COUNT, 32, 32, 3), np.uint8)
    pictures[SECOND_COPY] = pictures[FIRST_COPY]
    size = np.arange(COUNT) + 100
    small = Copies(pictures, pictures, np.full((COUNT, 2), 64, np.int32), size)
    names = np.array([f"{i:02d}.jpg" for i in range(COUNT)])
    seen = collection.Collection(
        files=Files("/nowhere", names),
        ids=names,
        splits=np.full(COUNT, "train"),
        labels=np.zeros(COUNT, int),
        class_names=("cat", "dog"),
        why_no_labels="",
        skipped=Skipped(0, "", {}),
        left_out=0,
        notes=(),
    )
    forgotten = np.where(np.arange(COUNT) == SECOND_COPY, np.nan, np.arange(COUNT) % 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curation, "distances", lambda features, looks: (features[:, 0], features[:, 1]))
        patch.setattr(curation, "label_issues", lambda *_: issues)
        return lists.find(seen, small, features, forgotten, subset=4)


def rows(found, name, *columns):
    return [tuple(row[column] for column in ("id", *columns)) for row in found.tables[name].to_pylist()]


def test_of_copies_the_one_of_most_bytes_is_kept(found):
    assert rows(found, "duplicates", "keep") == [("24.jpg", True), ("00.jpg", False)]


def test_outliers_are_the_farthest_first_and_say_which_way_they_are_apart(found):
    (first, why), (second, other) = rows(found, "outliers", "why")
    assert [(first, why), (second, other)] == [("03.jpg", "like no other"), ("07.jpg", "a small group apart")]
    first, second = found.tables["outliers"]["apart"].to_pylist()
    assert first > second > curation.APART


def test_rare_images_are_the_farthest_of_those_that_belong(found):
    """The twentieth part of all, whole numbers up: no outlier, and of copies the one that is kept."""
    assert [image for (image,) in rows(found, "rare")] == ["24.jpg", "23.jpg"]
    assert np.flatnonzero(found.images["rare"].to_numpy()).tolist() == [23, 24]


def test_the_least_likely_labels_come_first(found):
    assert rows(found, "labels", "class", "suggested", "label_probability") == [
        ("09.jpg", "cat", "dog", 0.05),
        ("05.jpg", "cat", "dog", 0.2),
    ]


def test_what_is_not_learned_is_what_pruning_changes_most_where_that_is_known(found):
    assert rows(found, "not_learned", "change") == [("19.jpg", 19.0), ("18.jpg", 18.0)]


def test_the_subset_has_no_outlier_and_of_copies_one(found):
    chosen = [image for image, _ in rows(found, "subset", "place")]
    assert [place for _, place in rows(found, "subset", "place")] == [1, 2, 3, 4]
    assert not {"00.jpg", "03.jpg", "07.jpg"} & set(chosen)


def test_the_classes_of_a_folder_are_named_from_both_ends():
    labels = np.repeat(np.arange(13), np.arange(13, 0, -1))
    names, splits = tuple("abcdefghijklm"), np.full(len(labels), "train")
    seen = collection.Collection(
        Files("/nowhere", labels), labels, splits, labels, names, "", Skipped(0, "", {}), 0, ()
    )
    images, classes = collection.described(seen)
    assert images == "91 images: 91 train"
    assert classes == "13 classes: a 13, b 12, c 11, d 10, e 9, 3 more, i 5, j 4, k 3, l 2, m 1"


def test_images_a_second_are_those_of_the_steps_after_the_first(monkeypatch):
    """The first step, which compiles, takes 100 seconds, and each of the next three takes 2. All begin with a state
    that lies where a step leaves it, or the second would be compiled again."""
    clock, steps, places = [0.0], itertools.count(), set()

    def step(state, batch):
        clock[0] += 2.0 if next(steps) else 100.0
        places.add((state.sharding, state.committed))
        return state, {}

    method = types.SimpleNamespace(init=lambda seed, view: view.sum(), jitted_step=step)
    monkeypatch.setattr(recipes, "method", lambda *_: method)
    monkeypatch.setattr(photos.time, "perf_counter", lambda: clock[0])
    config = recipes.load("folder:sdclr")
    config.batch_size = 16
    speed = photos._images_per_second(config, np.zeros((16, 32, 32, 3), np.uint8))
    assert speed == pytest.approx(16 / 2.0)
    assert next(steps) == 4 and places == {(parallel.shardings().replicated, True)}


def test_images_that_are_not_learned_are_found_by_the_published_rate(monkeypatch, tmp_path):
    asked = {}

    def exemplars(run, **given):
        asked.update(given)
        table = pyarrow.table({"id": ["a.jpg", "b.jpg"], "score": [0.5, 0.25]})
        pyarrow.parquet.write_table(table, tmp_path / f"{photos.names.RANKING}.parquet")

    (tmp_path / "exemplars").mkdir()
    monkeypatch.setattr(photos.exemplars, "exemplars", exemplars)
    run = types.SimpleNamespace(path=tmp_path, step=20)
    found = photos._forgotten(run, np.array(["b.jpg", "new.jpg", "a.jpg"]), None, False, print)
    np.testing.assert_array_equal(found, [0.25, np.nan, 0.5])
    assert asked["rates"] == [recipes.load("cifar10_lt:sdclr").prune.rate] == [0.9]


def test_names_with_ends_of_lines_are_read_again(tmp_path):
    """From a table of more than a megabyte too, which is read in parts."""
    ids = [f"a folder with a long name/number\n{i:06d}.jpg" for i in range(60_000)]
    table = pyarrow.table({"id": ids} | {name: [3] * len(ids) for name in ("height", "width", "bytes")})
    lists.write_csv(tmp_path / "sizes.csv", table)
    found = lists.read_sizes(tmp_path / "sizes.csv")
    assert (tmp_path / "sizes.csv").stat().st_size > 2**20
    assert [row[0] for row in found] == ids and found[-1][1:] == (3, 3, 3)


@pytest.mark.parametrize(
    ("there", "again"),
    [({}, False), ({"against": "pruned"}, True), ({"rate": 0.5}, True), ({"step": 1}, True)],
)
def test_scores_that_are_there_of_another_rate_or_kind_are_measured_again(monkeypatch, tmp_path, there, again):
    """`sdclr exemplars` on the run may have been asked for others."""
    written = json.loads((GOLDEN / "exemplars" / "summary.json").read_text())
    written["settings"]["against"] = there.get("against", "recalibrated")
    written["ranked_by"]["rate"] = there.get("rate", 0.9)
    assert {rate["rate"] for rate in written["checkpoints"][-1]["rates"]} >= {0.5, 0.9}
    step = written["checkpoints"][-1]["step"]
    files.write(tmp_path / photos.names.SUMMARY, json.dumps(written).encode())
    ranking = pyarrow.table({"id": ["a"], "score": [0.5]})
    pyarrow.parquet.write_table(ranking, tmp_path / f"{photos.names.RANKING}.parquet")
    asked = []
    monkeypatch.setattr(photos.exemplars, "exemplars", lambda run, **given: asked.append(given))
    run = types.SimpleNamespace(path=tmp_path, step=there.get("step", step))
    said = []
    assert photos._forgotten(run, np.array(["a"]), None, False, said.append) == [0.5]
    assert [line.endswith("it is measured again, and replaced.") for line in said] == [True] * again
    assert [(given["rates"], given["against"]) for given in asked] == [([0.9], "recalibrated")] * again
