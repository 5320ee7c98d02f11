"""From a run to other programs and back: export, import, and pretraining that starts from a file."""

import dataclasses
import json
import shutil
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from sdclr_jax import interop, parallel, recipes, records, trees
from sdclr_jax.api.export import export
from sdclr_jax.api.import_weights import import_weights
from sdclr_jax.api.load import load
from sdclr_jax.commands import main
from sdclr_jax.data.images import as_images
from sdclr_jax.errors import UserError
from sdclr_jax.interop import onnx
from sdclr_jax.interop.card import card, plain
from sdclr_jax.interop.usage import Usage
from sdclr_jax.records import EncoderRecord, Results, View
from sdclr_jax.run import folder
from sdclr_jax.run.checkpoints import Checkpoints
from tests import runs
from tests.api import test_load

HEADS = {"projector": {"layers": 2, "hidden": 8, "out": 4}}


@pytest.fixture(scope="module")
def sdclr(tmp_path_factory):
    """A run with random weights and a norm per branch; the projector is as wide as the features, as the authors'."""
    return test_load.make(tmp_path_factory.mktemp("runs") / "sdclr", runs.config(), (9, 8, 8, 1))


def tensors(path):
    with interop.opened(path) as found:
        return {name: tensor.read() for name, tensor in found.items()}


@pytest.mark.parametrize("to", ["torchvision", "timm"])
def test_an_encoder_goes_out_and_is_taken_again_to_the_bit(sdclr, tmp_path, to, capsys):
    run = load(sdclr)
    path = run.export(to, tmp_path / "out", classes=3) / "model.safetensors"
    held, expected = tensors(path), trees.named(run.variables)
    assert held["fc.weight"].shape == (3, 8) and not held["fc.weight"].any() and not held["fc.bias"].any()
    shapes = {name.replace("/", "/encoder/", 1): x.shape for name, x in expected.items()}
    taken = interop.take(path, recipes.encoder(run.encoder.model), "resnet8", shapes)
    assert taken.branches["dense"].keys() == shapes.keys()
    for name, x in expected.items():
        np.testing.assert_array_equal(taken.branches["dense"][name.replace("/", "/encoder/", 1)], x, err_msg=name)
    assert taken.aside == ("fc.bias", "fc.weight")
    assert main.main(["export", str(sdclr), f"--to={to}", f"--out={tmp_path / 'without'}", "--classes=0"]) == 0
    assert capsys.readouterr().out == (
        f"Wrote {tmp_path}/without: README.md, model.safetensors. `model.safetensors` has the names of {to}, which has "
        "no such resnet8: a module of your own with these names loads it.\n"
    )
    without = tmp_path / "without" / "model.safetensors"
    assert tensors(without).keys() == held.keys() - {"fc.weight", "fc.bias"}


def test_a_whole_network_goes_out_and_comes_back_as_a_run(sdclr, tmp_path, capsys):
    written = export(sdclr, "authors", tmp_path / "out")
    held = tensors(written / "model.safetensors")
    assert {"normalize.mean", "layer1.0.bn1.bn_list.1.running_var", "fc.fc2.weight", "fc.bn2.bn_list.0.bias"} <= {*held}
    back = import_weights(written / "model.safetensors", tmp_path / "back", "digits_lt:sdclr", HEADS)
    assert (back.step, back.config.method, back.config.model.start) == (0, "imported", f"{written}/model.safetensors")
    assert "norms: those of the dense and of the sparse branch, each from its own" in capsys.readouterr().err
    with Checkpoints(tmp_path / "back" / "checkpoints", read_only=True) as kept:
        like = recipes.abstract_state(back.config, (1, 8, 8, 1), parallel.shardings(jax.devices()[:1]))
        masks = [mask for mask in jax.tree.leaves(kept.restore(like=like).mask) if mask is not None]
    assert sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks) == pytest.approx(0.1, abs=0.01)
    again = tensors(back.export("authors", tmp_path / "again") / "model.safetensors")
    assert again.keys() == held.keys()
    for name, x in held.items():
        np.testing.assert_array_equal(again[name], x, err_msg=name)
    card = (tmp_path / "again" / "README.md").read_text()
    assert "# resnet8, weights of another program" in card and "| Imported by | sdclr_jax " in card
    assert f"| Weights | of another program, SHA-256 {interop.sha256(written / 'model.safetensors')} |" in card
    for untrue in ("without labels", "tags:", "Data set", "| Method |", "| Images |", "Hardware", "seeds", "Evaluated"):
        assert untrue not in card, untrue
    with pytest.raises(UserError, match="back holds a run already: give another --out"):
        import_weights(written / "model.safetensors", tmp_path / "back", "digits_lt:sdclr", HEADS)


@pytest.mark.parametrize("method", ["sdclr", "sd_byol"])
def test_every_branch_starts_from_the_file_and_heads_stay_new(method, tmp_path):
    config = runs.config(method)
    like = recipes.abstract_state(config, (1, 8, 8, 1), parallel.shardings(jax.devices()[:1]))
    shapes = trees.named({"params": like.params["weights"], "norms": like.params["norms"]["dense"]})
    is_key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    new = jax.tree.map(lambda x: x if is_key(x) else np.zeros(x.shape, x.dtype), like)
    arrays = {
        f"params/{name.split('/', 1)[1]}": np.full(x.shape, 3, np.float32)
        for name, x in shapes.items()
        if "/encoder/" in name
    }
    arrays |= {
        f"batch_stats/{name}": np.full(x.shape, 4, np.float32)
        for name, x in trees.named(like.stats["dense"]).items()
        if name.startswith("encoder/")
    }
    started = trees.named(recipes.started(new, {"dense": arrays}))
    for name, x in started.items():
        kind = name.split("/")[0]
        expected = {"params": 3, "target": 3, "stats": 4}.get(kind, 0) if "/encoder/" in name else 0
        if kind != "key":
            assert (np.asarray(x) == expected).all(), name
    sets = {name.split("/")[1] for name, x in started.items() if name.startswith("stats/") and "/encoder/" in name}
    assert sets == ({"dense", "sparse", "target"} if method == "sd_byol" else {"dense", "sparse"})


def test_an_import_that_was_stopped_goes_on_by_the_same_command(sdclr, tmp_path, monkeypatch):
    path = export(sdclr, "timm", tmp_path / "out") / "model.safetensors"
    with monkeypatch.context() as patched, pytest.raises(UserError, match="no room"):
        patched.setattr(Checkpoints, "save", lambda *_: (_ for _ in ()).throw(UserError("no room")))
        import_weights(path, tmp_path / "run", "digits_lt:simclr")
    assert (tmp_path / "run" / "config.json").exists()
    assert import_weights(path, tmp_path / "run", "digits_lt:simclr").step == 0
    with pytest.raises(UserError, match="run holds a run already: give another --out"):
        import_weights(path, tmp_path / "run", "digits_lt:simclr")


def test_an_encoder_of_another_size_is_refused_where_one_is_named(sdclr, tmp_path, capsys):
    path = export(sdclr, "timm", tmp_path / "out") / "model.safetensors"
    argv = ["import", str(path), f"--out={tmp_path / 'run'}", "--config=digits_lt:simclr"]
    for model, said in [
        ("resnet8", "is of a ResNet of (1, 1, 1) blocks, 2 wide, and not of resnet8: leave out --model to take"),
        ("vit_tiny", "and not of vit_tiny"),
        ("resnet9", "unknown model.name 'resnet9'"),
    ]:
        assert main.main([*argv, f"--model={model}"]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    encoder = {"name": "resnet8", "width": 2}
    assert recipes.architecture_of(path).model.items() >= encoder.items()


def test_an_imported_encoder_sees_images_of_one_size_as_its_record_says(tmp_path):
    """Resized and cropped: they need not have the size that it was trained on."""
    for i in range(12):
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(tmp_path / f"{i}.png")
    for method, decoded in (("simclr", True), (recipes.IMPORTED, False)):
        config = recipes.load("folder:simclr")
        recipes.override(config, {"data.name": f"folder:{tmp_path}", "model.stem": "cifar"})
        config.method = method
        assert as_images(recipes.data(config, tmp_path / "data").train.images).is_decoded == decoded


def test_an_export_that_fails_leaves_nothing_in_its_way(sdclr, tmp_path, monkeypatch):
    run = shutil.copytree(sdclr, tmp_path / "run")
    (run / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"results\.json"):
        export(run, "timm", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    full = safetensors.SafetensorError("Error while serializing: No space left on device")
    monkeypatch.setattr(safetensors.numpy, "save_file", lambda *_, **__: (_ for _ in ()).throw(full))
    with pytest.raises(UserError, match=r"model\.safetensors cannot be written \(Error while serializing: No space"):
        export(sdclr, "timm", tmp_path / "out")


def test_a_run_is_known_by_what_is_in_the_file_it_started_from(tmp_path, sdclr):
    path = export(sdclr, "timm", tmp_path / "out") / "model.safetensors"
    hashed = interop.sha256(path)
    config, run = runs.config(), tmp_path / "run"
    config.model.start = str(path)
    found = recipes.with_hash_of_start(recipes.located(config), run)
    assert found.model.start_sha256 == hashed
    assert recipes.identity(found) != recipes.identity(runs.config())
    with folder.lock(run):
        folder.claim(run, found, None, encoder_of(found), recipes.identity)
    assert not (run / "data.json").exists()
    moved = path.rename(tmp_path / "moved.safetensors")
    folder.check(run, recipes.with_hash_of_start(config, run), recipes.identity)  # the file is not needed any more
    config.model.start = str(moved)
    folder.check(run, recipes.with_hash_of_start(config, run), recipes.identity)
    moved.write_bytes(moved.read_bytes() + b" ")
    with pytest.raises(UserError, match=rf"another config: model\.start_sha256 \({hashed} there, \w+ given\)"):
        folder.check(run, recipes.with_hash_of_start(config, run), recipes.identity)
    config.model.start_sha256 = hashed
    with pytest.raises(UserError, match=r"model\.start is .*, which has the SHA-256 .*, and model\.start_sha256 says"):
        recipes.with_hash_of_start(config, run)
    config.model.start = str(tmp_path / "nothing.pt")
    with pytest.raises(UserError, match=r"model\.start is .*nothing\.pt, and there is no such file"):
        recipes.with_hash_of_start(config, tmp_path / "new")
    config.model.start = ""
    with pytest.raises(UserError, match=r"model\.start_sha256 is .*, and model\.start is empty"):
        recipes.with_hash_of_start(config, run)


def encoder_of(config):
    return recipes.encoder_record(config, (1, 8, 8, 1), encoded=False)


def test_pretraining_refuses_a_file_that_does_not_fit_before_it_writes(tmp_path, sdclr, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = export(sdclr, "timm", tmp_path / "out") / "model.safetensors"
    flags = [
        *runs.TINY,
        "--config.model.width=4",
        f"--config.model.start={path}",
        f"--data_dir={tmp_path}/data",
    ]
    assert main.main(["pretrain", "--config=digits_lt:sdclr", "--workdir=run", *flags]) == 2
    assert "blocks, 2 wide, and not of resnet8: conv1.weight has the shape" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_nothing_is_written_over_and_a_card_says_what_the_run_says(sdclr, tmp_path):
    written = export(sdclr, "hub-folder", tmp_path / "out", data_license="CC <b>BY</b> 4.0|x")
    assert sorted(path.name for path in written.iterdir()) == ["README.md", "encoder.json", "model.safetensors"]
    assert json.loads((written / "encoder.json").read_text()) == json.loads((sdclr / "encoder.json").read_text())
    card = (written / "README.md").read_text()
    assert "| Licence of the images | CC &lt;b&gt;BY&lt;/b&gt; 4.0\\|x |" in card
    assert "| Method | sdclr, seed 0, step 1 |" in card and "| Images | 1, SHA-256 of their list 0 |" in card
    assert "This checkpoint has not been evaluated" in card
    assert "timm, which has no such resnet8" in card and "library_name" not in card
    with pytest.raises(UserError, match="out is there already: delete it, or give another --out"):
        export(sdclr, "timm", tmp_path / "out")
    with pytest.raises(UserError, match="to is 'tensorflow': known are torchvision, timm, authors, onnx, hub-folder"):
        export(sdclr, "tensorflow", tmp_path / "new")
    with pytest.raises(UserError, match="classes is -1: it must be a whole number of at least 0"):
        export(sdclr, "timm", tmp_path / "new", classes=-1)
    assert not (tmp_path / "new").exists()


def test_a_name_from_a_data_set_cannot_leave_its_place_in_the_card():
    assert plain("a\n| b | <script>alert(1)</script> ](javascript:x) `c`") == (
        "a \\| b \\| &lt;script&gt;alert\\(1\\)&lt;/script&gt; \\]\\(javascript:x\\) \\`c\\`"
    )


def record(name, channels=3, side=32, **fields):
    view = View(height=side, width=side, channels=channels)
    return EncoderRecord(
        model={"name": name, **fields}, view=view, mean=(0.5,), std=(0.2,), resize=None, crop=None, features=512
    )


@pytest.mark.parametrize(
    ("to", "encoder", "lines"),
    [
        ("torchvision", record("resnet18", stem="imagenet", width=64), ["resnet18(num_classes=10)", "model.fc ="]),
        (
            "timm",
            record("resnet18", channels=1, stem="cifar", width=64),
            [
                'timm.create_model("resnet18", in_chans=1, num_classes=10)',
                "model.conv1 = torch.nn.Conv2d(1, 64, 3, padding=1, bias=False)",
                "model.maxpool = torch.nn.Identity()",
            ],
        ),
        (
            "timm",
            record("vit_tiny", side=224, patch=16, width=192, depth=12, heads=3),
            ['timm.create_model("vit_tiny_patch16_224", num_classes=10)'],
        ),
        (
            "torchvision",
            record("convnext_tiny", depths=[3, 3, 9, 3], width=96),
            ["convnext_tiny(num_classes=10)", "model.classifier[2] = torch.nn.Identity()"],
        ),
        (
            "timm",
            record("vit_small", side=224, patch=16, width=768, depth=12, heads=12),
            ['timm.create_model("vit_base_patch16_224", num_classes=10)'],
        ),
        (
            "torchvision",
            record("convnext_tiny", depths=[3, 3, 27, 3], width=128),
            ["torchvision.models.convnext_base(num_classes=10)"],
        ),
        ("timm", record("vit_small", side=224, patch=16, width=768, depth=12, heads=6), ["no such vit_small"]),
        ("hub-folder", record("resnet50", stem="imagenet", width=64), ['timm.create_model("local-dir:FOLDER"']),
        ("torchvision", record("resnet50", stem="imagenet", width=32), ["torchvision, which has no such resnet50"]),
        ("torchvision", record("resnet18", channels=1, stem="imagenet", width=64), ["torchvision, which has no such"]),
        ("onnx", record("resnet18"), ["float32 [N, 3, 32, 32]", "gives [N, 512]"]),
    ],
)
def test_the_card_says_how_it_is_loaded(to, encoder, lines):
    usage = Usage(encoder, to, classes=0 if to == "hub-folder" else 10)
    text = usage.text()
    assert [line for line in lines if line not in text] == []
    named = "no such" not in text and to != "onnx"
    assert ("The classifier of 10 classes is zeros" in text) == (named and to != "hub-folder")
    assert ("README.md says" in usage.fits()) == (named or to == "onnx") and usage.fits().count(". ") == 0
    assert ("` with another first layer: " in usage.fits()) == (encoder.model.get("stem") == "cifar")
    assert bool(Usage(encoder, to, 0).of_timm()) == (named and encoder.model.get("stem") != "cifar")


@pytest.mark.parametrize("classes", [0, 1000])
def test_the_plain_call_of_torchvision_has_a_thousand_classes(classes):
    found = Usage(record("resnet18", stem="imagenet", width=64), "torchvision", classes).text()
    assert "model = torchvision.models.resnet18()\n" in found


def scores(seen):
    """What results.json holds of images that were seen so."""
    score = {"settings": {}, "per_class": [0.5], "all": 0.5, "many": 0.5, "medium": None, "few": None, "std": None}
    data = {"name": "pets", "subset": "train", "split": 1, "seed": 0, "class_names": ["cat"], "train_counts": [3]}
    found = {
        "format": 1,
        "run": {"method": "sdclr", "seed": 0, "step": 1, "epoch": 1.0},
        "data": data | {"group_rule": "thirds", "groups": ["many"], "lists": {}},
        "encoder_checksum": 1,
        "seen": seen,
        "protocols": {"knn": score | {"validation_accuracy": None}},
    }
    return records.decode(Results, found)


SEEN = {"mean": [0.5], "std": [0.2], "resize": 36, "crop": 32, "interpolation": "bicubic"}


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (SEEN, ""),
        (None, ""),
        (SEEN | {"crop": 28, "interpolation": "bilinear"}, ": crop 28, interpolation bilinear."),
        (SEEN | {"mean": [0.4]}, ": mean \\[0.4\\]."),
        ({"mean": [0.5], "std": [0.2]}, ": whole images."),
    ],
)
def test_scores_of_another_preprocessing_than_that_of_the_card_say_so(seen, said):
    encoder = dataclasses.replace(record("resnet8"), resize=36, crop=32, gray_range=(0.0, 4095.0))
    given = {"title": "", "config": {"method": "imported"}, "step": 1, "trained_on": None, "versions": {}}
    found = card(**given, encoder=encoder, results=scores(seen), parameters=1, usage="", imported=True)
    assert (f"another preprocessing than the one above{said}\n" in found) == bool(said)
    assert ("another preprocessing" in found) == bool(said)
    assert "| knn | accuracy | 50.00 |" in found and "| Evaluated on | pets |" in found
    assert "In gray images of more than eight bits 0 is black and 4095 white: make them 0 and 255." in found


def test_onnx_without_its_extra_says_what_to_install(sdclr, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(
        UserError, match=r"ONNX takes jax2onnx, which is not installed: pip install --upgrade jax2onnx onnxruntime"
    ):
        export(sdclr, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_onnx_that_is_installed_and_cannot_be_imported_is_not_said_to_be_missing(tmp_path, monkeypatch):
    (tmp_path / "jax2onnx.py").write_text("from jax.core import a_name_of_long_ago\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "jax2onnx", raising=False)
    with pytest.raises(UserError, match=r"onnxruntime, which cannot be imported here \(cannot import name 'a_name_of_"):
        onnx.converted(None, {}, (8, 8, 1))


def test_onnx_gives_the_features_of_the_run(sdclr, tmp_path):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    run = load(sdclr)
    session = onnxruntime.InferenceSession(run.export("onnx", tmp_path / "out") / "model.onnx")
    images = ((test_load.digits(3) / 255 - run.encoder.mean[0]) / run.encoder.std[0]).astype(np.float32)
    (found,) = session.run(["features"], {"images": images.transpose(0, 3, 1, 2)})
    expected = run.encode(test_load.digits(3))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
