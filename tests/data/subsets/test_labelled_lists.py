import numpy as np
import pytest

from configs import imagenet100_lt
from sdclr_jax import recipes
from sdclr_jax.api import evaluate
from sdclr_jax.data import sources
from sdclr_jax.data.examples import Examples
from sdclr_jax.data.images import Files
from sdclr_jax.data.sources import catalogues
from sdclr_jax.data.subsets import labelled_lists, longtail
from sdclr_jax.errors import ArgumentError, UserError
from tests.pictures import put

CLASSES = tuple(f"n{c:02d}" for c in range(6))
PER_CLASS = 40
ORDER = (4, 1, 5, 2)  # the classes that the lists number 0 to 3
COUNTS = (20, 10, 6, 3)  # of the long tail, in that order
DRAW = {
    "n_max": 20,
    "imbalance": 8.0,
    "validation_per_class": 5,
    "few_shot_per_class": 2,
    "seed": 3,
    "profile": "pareto",
    "pareto": (6.0, 0.43366),
}


def data_set(prefix, per_class, name):
    """Examples with ids such as train/n01/n01_7.JPEG."""
    labels = np.repeat(np.arange(len(CLASSES), dtype=np.int32), per_class)
    ids = [name(prefix, CLASSES[c], i, n) for n, (c, i) in enumerate(zip(labels, [*range(per_class)] * 6, strict=True))]
    order = np.argsort(ids)
    ids = np.array(ids)[order]
    return Examples(Files("/nowhere", ids), labels[order], ids, CLASSES)


@pytest.fixture(scope="module")
def splits():
    train = data_set("train", PER_CLASS, lambda prefix, c, i, n: f"{prefix}/{c}/{c}_{i}.JPEG")
    return train, data_set("val", 4, lambda prefix, c, i, n: f"{prefix}/{c}/ILSVRC2012_val_{n:08d}.JPEG")


def write(path, examples, rows, numbers=ORDER):
    lines = [f"{examples.ids[row]} {numbers.index(examples.labels[row])}" for row in rows]
    path.write_text("\n".join(lines) + "\n")


def pick(examples, start, counts):
    """Rows of so many images of each class in ORDER, from the image `start` of a class on."""
    return [
        row
        for c, n in zip(ORDER, counts, strict=True)
        for row in np.flatnonzero(examples.labels == c)[start : start + n].tolist()
    ]


LISTS = {
    "long_tail": ("imageNet_100_LT_train.txt", 0, COUNTS),
    "balanced": ("imageNet_100_BL_train.txt", 2, (10, 10, 10, 9)),
    "few_shot": ("imageNet_100_sub_balance_train_0.01.txt", 5, (3,) * 4),
    "probe_train": ("ImageNet_100_train.txt", 0, (34,) * 4),
    "validation": ("ImageNet_100_val.txt", 34, (6,) * 4),
    "test": ("ImageNet_100_test.txt", 0, (3,) * 4),
}


@pytest.fixture
def folder(splits, tmp_path):
    rng = np.random.default_rng(0)
    for subset, (file, start, counts) in LISTS.items():
        examples = splits[subset == "test"]
        write(tmp_path / file, examples, rng.permutation(pick(examples, start, counts)))
    return tmp_path


def read(folder, splits, name="imagenet100", **changes):
    arguments = DRAW | changes
    files = labelled_lists.find(folder, name, arguments["profile"])
    return labelled_lists.read(files, *splits, name=name, **arguments)


def keep(folder, *subsets):
    for subset, (file, *_) in LISTS.items():
        if subset not in subsets:
            (folder / file).unlink()


def counts_of(given, subset):
    return np.bincount(given.train.labels[getattr(given.subsets, subset)], minlength=4).tolist()


def test_lists_give_the_images_that_they_name_and_the_classes(folder, splits):
    given = read(folder, splits)
    assert given.train.class_names == given.test.class_names == ("n01", "n02", "n04", "n05")  # two left out
    assert {i.split("/")[1] for i in given.train.ids} == set(given.train.class_names)
    assert [given.train.class_names[c] for c in given.train.labels] == [i.split("/")[1] for i in given.train.ids]
    assert given.train.images.paths.tolist() == given.train.ids.tolist()
    for subset, (file, *_) in LISTS.items():
        named = sorted(line.split()[0] for line in (folder / file).read_text().splitlines())
        if subset == "test":
            assert given.test.ids.tolist() == named
        else:
            rows = getattr(given.subsets, subset)
            assert given.train.ids[rows].tolist() == named and np.all(np.diff(rows) > 0)
        assert given.origins[subset] == file
    assert given.subsets.train_counts.tolist() == [10, 3, 20, 6]
    assert given.subsets.class_order.tolist() == [2, 0, 3, 1]


def test_a_list_alone_and_the_rest_drawn(folder, splits):
    keep(folder, "long_tail")
    given = read(folder, splits)
    origins = {subset: "drawn" for subset in LISTS} | {"long_tail": LISTS["long_tail"][0]}
    assert given.origins == origins | {"test": "all test images of these classes"}
    assert len(given.test.ids) == 16 and given.subsets.train_counts.tolist() == [10, 3, 20, 6]
    assert counts_of(given, "validation") == [5] * 4 and counts_of(given, "few_shot") == [2] * 4
    assert counts_of(given, "probe_train") == [35] * 4
    assert counts_of(given, "balanced") == [9] * 4  # of 39 images
    for subset in ("long_tail", "balanced", "few_shot", "probe_train"):
        assert not np.intersect1d(getattr(given.subsets, subset), given.subsets.validation).size
    other = read(folder, splits, seed=4)
    assert other.subsets.validation.tolist() != given.subsets.validation.tolist()
    assert other.subsets.long_tail.tolist() == given.subsets.long_tail.tolist()


def test_a_long_tail_is_drawn_beside_given_validation(folder, splits):
    keep(folder, "validation")
    given = read(folder, splits)
    assert given.origins["long_tail"] == "drawn" and counts_of(given, "validation") == [6] * 4
    counts = longtail.class_counts(20, 8.0, 4, "pareto")
    assert sorted(given.subsets.train_counts.tolist(), reverse=True) == counts.tolist()
    assert not np.intersect1d(given.subsets.long_tail, given.subsets.validation).size


def test_drawn_validation_keeps_off_all_that_is_trained_on(folder, splits):
    keep(folder, "long_tail", "probe_train")
    assert counts_of(read(folder, splits, validation_per_class=10), "validation") == [6] * 4  # what is left
    write(folder / LISTS["probe_train"][0], splits[0], pick(splits[0], 0, (40,) * 4))
    with pytest.raises(ArgumentError, match="^files leave no image for validation: add a list validation.txt"):
        read(folder, splits)


def test_a_balanced_twin_that_cannot_be_is_empty(folder, splits):
    keep(folder)
    train, test = splits
    for subset in ("long_tail", "probe_train"):
        write(folder / f"{subset}.txt", train, pick(train, 0, (34, 34, 34, 33)))
    assert len(read(folder, splits, n_max=34, imbalance=1.03).subsets.balanced) == 4 * 33
    assert len(read(folder, splits, profile="as_is").subsets.balanced) == 4 * 33
    small = train.take(np.setdiff1d(np.arange(len(train.ids)), pick(train, 20, (0, 0, 0, 20))))
    for subset in ("long_tail", "probe_train"):
        write(folder / f"{subset}.txt", small, pick(small, 0, (34, 34, 34, 19)))
    assert not len(read(folder, (small, test), profile="as_is").subsets.balanced)


def test_ids_of_tfds_are_file_names(folder, splits):
    """The lists' paths end in the ids, in the training images and in the test images."""

    def named(examples):
        ids = np.array([i.split("/")[-1] for i in examples.ids])
        order = np.argsort(ids)
        return Examples(examples.images[order], examples.labels[order], ids[order], CLASSES)

    ours, tfds = read(folder, splits), read(folder, tuple(map(named, splits)))
    for subset in LISTS.keys() - {"test"}:
        paths = [given.train.images.paths[getattr(given.subsets, subset)] for given in (ours, tfds)]
        assert sorted(paths[0]) == sorted(paths[1])
    assert sorted(ours.test.images.paths) == sorted(tfds.test.images.paths)


def test_other_directories_and_endings_join_on_unique_file_names(folder, splits):
    def moved(examples):
        ids = np.array([i.replace("train/", "images/").replace("val/", "images/")[:-5] + ".png" for i in examples.ids])
        return examples._replace(ids=ids)

    assert read(folder, tuple(map(moved, splits))).subsets.train_counts.tolist() == [10, 3, 20, 6]


def test_file_names_that_are_not_unique_are_no_key(folder, splits):
    """Images of a class without a list have the file names of one with."""
    train, test = splits
    ids = [i.replace("train/n00/n00", "images/n00/n01").replace("train/", "images/") for i in train.ids]
    with pytest.raises(UserError, match="which is none of the 240 images of imagenet100"):
        read(folder, (train._replace(ids=np.array(ids)), test))


def edit(folder, subset, change):
    path = folder / LISTS[subset][0]
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


@pytest.mark.parametrize("subset", LISTS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines, lines[0]], r"names .* more than once; (check|get)"),
        (lambda lines: [*lines, lines[0] + "1"], "more than once|says that"),
        (lambda lines: [*lines, "train/n09/n09_1.JPEG 0"], r"names train/n09/n09_1\.JPEG, which is none of the \d+ "),
        (lambda lines: ["x/y.JPEG 0", *lines], r"names x/y\.JPEG, which is none of"),
        (lambda lines: [*lines, "oneword"], "has the line 'oneword', which is no `path label`"),
        (lambda lines: [line.replace(" ", " label") for line in lines], "which is no `path label`"),
        (lambda lines: [line[:-1] + str((int(line[-1]) + 1) % 4) for line in lines], "says that .* is of the class n0"),
        (lambda lines: [line[:-1] + "0" for line in lines], "with label 0, which is n0|with label 0, which was"),
        (lambda lines: [lines[0][:-1] + "9", *lines[1:]], "with label 9, which was . before|label ., which was 9 bef"),
        (lambda lines: [line for line in lines if "n05" not in line], r"has no image of n05"),
        (lambda lines: [], "is empty; "),
    ],
)  # fmt: skip
def test_wrong_lists(folder, splits, subset, change, message):
    edit(folder, subset, change)
    with pytest.raises(UserError, match=message) as error:
        read(folder, splits)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_one_image_by_two_names(folder, splits):
    edit(folder, "few_shot", lambda lines: [*lines, "other/" + lines[0]])
    with pytest.raises(UserError, match="names other/train.*, which is none of|names one image twice"):
        read(folder, splits)
    named = [examples._replace(ids=np.array([i.split("/")[-1] for i in examples.ids])) for examples in splits]
    order = [np.argsort(examples.ids) for examples in named]
    named = [examples.take(rows) for examples, rows in zip(named, order, strict=True)]
    edit(folder, "few_shot", lambda lines: [lines[0], lines[0].replace("train/", "tr/"), *lines[1:-1]])
    with pytest.raises(UserError, match="names one image twice, as train/.* and tr/"):
        read(folder, named)


@pytest.mark.parametrize("subset", ["long_tail", "balanced", "few_shot", "probe_train"])
def test_validation_images_must_not_be_trained_on(folder, splits, subset):
    shared = (folder / LISTS["validation"][0]).read_text().splitlines()[0]
    label = shared.split()[1]
    edit(folder, subset, lambda lines: [line for line in lines if line.split()[1] != label] + [shared])
    with pytest.raises(UserError, match=rf"{LISTS[subset][0]} and validation, .*100_val\.txt, share 1 images, such"):
        read(folder, splits)


@pytest.mark.parametrize("changes", [{"n_max": 21}, {"imbalance": 5.0}, {"imbalance": 20.0}, {"n_max": 19}])
def test_a_long_tail_of_another_profile(folder, splits, changes):
    with pytest.raises(UserError, match=r"has 20 images of n04 and 3 of n02, where n_max .* give .*; check that the"):
        read(folder, splits, **changes)


def test_images_that_the_data_set_holds_out(folder, splits):
    keep(folder, "long_tail")
    held_out = np.zeros(len(splits[0].ids), bool)
    held_out[pick(splits[0], 38, (2,) * 4)] = True
    given = read(folder, (splits[0]._replace(held_out=held_out), splits[1]))
    assert given.origins["validation"] == "the data set's own" and counts_of(given, "validation") == [2] * 4
    held_out[pick(splits[0], 0, (1,) * 4)] = True
    with pytest.raises(UserError, match=r"LT_train\.txt and validation, the data set's own, share 4 images"):
        read(folder, (splits[0]._replace(held_out=held_out), splits[1]))


def test_lists_of_ones_own(folder, splits):
    """Named after the subset, of ids without labels, in a data set whose labels are not numbered by anybody."""
    for subset, (file, *_) in LISTS.items():
        lines = (folder / file).read_text().splitlines()
        (folder / f"{subset}.txt").write_text("\n".join(line.split()[0] for line in lines))
    keep(folder)
    given, name = read(folder, splits, name="folder:x", profile="as_is"), "long_tail.txt"
    assert given.origins["long_tail"] == name and given.train.class_names == ("n01", "n02", "n04", "n05")
    assert given.subsets.train_counts.tolist() == [10, 3, 20, 6]


def test_what_find_refuses(folder, tmp_path):
    with pytest.raises(ArgumentError, match=r"^folder is /none, which is no folder"):
        labelled_lists.find("/none", "imagenet100", "pareto")
    with pytest.raises(
        ArgumentError, match=r"no list of imagenet with the profile 'exponential': put there any of imageNet_LT_e"
    ):
        labelled_lists.find(folder, "imagenet", "exponential")
    (folder / "FEW_SHOT.txt").touch()
    (folder / "few_shot.TXT").touch()
    with pytest.raises(ArgumentError, match="holds both"):
        labelled_lists.find(folder, "imagenet100", "pareto")
    (folder / "FEW_SHOT.txt").unlink()
    (folder / "few_shot.TXT").unlink()
    (folder / "few_shot.txt").touch()
    with pytest.raises(
        ArgumentError, match=r"holds both imageNet_100_sub_balance_train_0\.01\.txt and few_shot\.txt: keep one"
    ):
        labelled_lists.find(folder, "imagenet100", "pareto")
    (folder / "few_shot.txt").unlink()
    (folder / "imageNet_100_LT_train.txt").rename(folder / "imagenet_100_lt_TRAIN.txt")
    found = labelled_lists.find(folder, "imagenet100", "pareto")
    assert found["long_tail"].name == "imagenet_100_lt_TRAIN.txt" and set(found) == set(LISTS)


def test_images_without_classes_have_no_lists(folder, splits):
    train, test = splits
    for other in (
        train._replace(labels=np.full(len(train.ids), -1, np.int32), class_names=()),
        train._replace(labels=np.zeros((len(train.ids), 6), np.uint8)),
    ):
        with pytest.raises(
            ArgumentError, match="^files are given, but the images of imagenet100 have no classes: go without"
        ):
            read(folder, (other, test))


def test_texts_that_no_subset_takes_are_named_where_a_list_is_missing(folder, caplog):
    (folder / "README.txt").touch()
    labelled_lists.find(folder, "imagenet100", "pareto")
    assert not caplog.messages  # no list is missing
    (folder / "imageNet_100_LT_train.txt").rename(folder / "imageNet_100_LT_train (1).txt")
    assert "long_tail" not in labelled_lists.find(folder, "imagenet100", "pareto")
    (said,) = caplog.messages
    assert said == (
        f"{folder}: no list for long_tail, whose images our own rule gives; not read: README.txt, "
        "imageNet_100_LT_train (1).txt; if one of these is meant, rename it, such as to imageNet_100_LT_train.txt, "
        "or give its data.profile"
    )


@pytest.mark.parametrize("missing", [0, 1])
def test_a_list_of_all_images_leaves_some_for_validation(folder, splits, missing):
    """As iNaturalist's, which is what the data set is; and one that lacks an image, which is no validation alone."""
    keep(folder)
    every = np.arange(len(splits[0].ids))
    write(folder / "iNaturalist18_train.txt", splits[0], every[missing:], numbers=list(range(6)))
    given = read(folder, splits, name="inaturalist2018", profile="as_is")
    assert given.origins["long_tail"] == "iNaturalist18_train.txt, but for validation"
    assert np.bincount(given.train.labels[given.subsets.validation]).tolist() == [5] * 6
    kept = np.setdiff1d(every, given.subsets.validation)
    assert given.subsets.probe_train.tolist() == kept.tolist()
    assert given.subsets.long_tail.tolist() == kept[kept >= missing].tolist()
    assert given.subsets.train_counts.sum() == len(given.subsets.long_tail) > 6 * 34
    write(folder / "probe_train.txt", splits[0], every, numbers=list(range(6)))
    with pytest.raises(ArgumentError, match="leave no image for validation: add a list validation.txt"):
        read(folder, splits, name="inaturalist2018", profile="as_is")


def test_the_first_line_that_is_no_id_is_named_in_a_list_of_ids(folder, splits):
    keep(folder)
    for wrong in (0, 2):
        lines = [splits[0].ids[row] for row in pick(splits[0], 0, (1,) * 4)]
        lines[wrong] = "train/n04/n0_4.JPEG"
        (folder / "few_shot.txt").write_text("\n".join(lines))
        with pytest.raises(
            UserError, match=r"few_shot\.txt names train/n04/n0_4\.JPEG, which is none of the 240 images"
        ):
            read(folder, splits, name="folder:x", profile="as_is")


def test_lists_of_places_join_with_both_of_its_layouts(tmp_path):
    """Whose file names are not unique: published are data_256/a/CLASS/PART, and train/CLASS-PART."""
    nested = [f"data_256/a/{c}/0000{i}.jpg" for c in ("airfield", "apartment/outdoor", "apartment_x") for i in (1, 2)]
    flat = [f"train/{c}/0000{i}.jpg" for c in ("airfield", "apartment-outdoor", "apartment_x") for i in (1, 2)]
    for ids, names in ((nested, flat), (flat, nested), (nested, nested), (flat, flat)):
        for rows in ([5, 0, 2], [3]):
            chosen = [names[row] for row in rows]
            assert labelled_lists._join(tmp_path, chosen, np.array(ids), "places365").tolist() == rows
    with pytest.raises(UserError, match="names train/airfield/9.jpg, which is none of the 6 images of places365"):
        labelled_lists._join(tmp_path, [flat[0], "train/airfield/9.jpg"], np.array(nested), "places365")


# Through the config


def test_a_run_on_100_of_1000_classes(tmp_path, monkeypatch):
    """From images and the authors' long tail alone, to what results.json says of the data."""
    root, lists = tmp_path / "imagenet", tmp_path / "lists"
    lists.mkdir()
    put(root, [f"train/{c}/{c}_{i}.JPEG" for c in CLASSES for i in range(16)] + [f"val/{c}/{c}.JPEG" for c in CLASSES])
    train = sources.source("imagenet100", tmp_path, root=str(root)).load("train")
    write(lists / "imageNet_100_LT_train.txt", train, pick(train, 0, (8, 4, 2, 1)))

    config = imagenet100_lt.get_config()
    config.update({"data": {"root": str(root), "n_max": 8, "imbalance": 8.0, "validation_per_class": 2}})
    config.evaluate.knn_k = 3
    config.data.few_shot_per_class = 2
    with pytest.raises(
        UserError, match="'imagenet100', which has 100 classes, but 6 were found: set data.lists to the"
    ):
        recipes.data(config, str(tmp_path))
    config.data.lists = str(lists)
    monkeypatch.setitem(sources.NUM_CLASSES, "imagenet100", 4)
    data = recipes.data(config, str(tmp_path))
    about = evaluate.about(config, data).to_json()
    assert about["train_counts"] == [4, 1, 8, 2] and about["class_names"] == ["n01", "n02", "n04", "n05"]
    assert about["provenance"]["subsets"]["long_tail"] == "imageNet_100_LT_train.txt"
    assert about["provenance"]["subsets"]["few_shot"] == "drawn"
    named = [line.split()[0] for line in (lists / "imageNet_100_LT_train.txt").read_text().splitlines()]
    assert about["lists"]["train"] == longtail.list_hash(named) and set(about["groups"]) == {"few"}
    assert isinstance(data.part("long_tail").images, Files) and len(data.test.ids) == 4


def test_the_number_of_classes_is_that_of_the_data_set():
    assert {name: layout.classes for name, layout in catalogues.CATALOGUES.items()} == sources.NUM_CLASSES
    assert (sources.NUM_CLASSES["imagenet"], sources.NUM_CLASSES["inaturalist2018"]) == (1000, 8142)
