"""Files of weights: what is taken, what is said, and what is refused before anything is written."""

import os
import pickle
import struct
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

from sdclr_jax import interop
from sdclr_jax.errors import UserError
from sdclr_jax.models import ENCODERS
from tests.interop import files

RESNET8 = ENCODERS["resnet8"](width=2)
SHAPES = files.shapes_of(RESNET8, 8, channels=1)


def take(path, encoder=RESNET8, name="resnet8", shapes=SHAPES):
    return interop.take(path, encoder, name, shapes)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_every_tensor_is_taken_as_it_is(tmp_path, suffix):
    taken = take(files.resnet8(tmp_path, "module.encoder_q.", suffix, **{"module.queue": np.zeros((2, 3), np.float32)}))
    (found,) = taken.branches.values()
    assert {name: x.shape for name, x in found.items()} == SHAPES
    kernel = files.made("layer2.0.downsample.0.weight", (4, 2, 1, 1)).astype(np.float32)
    np.testing.assert_array_equal(found["params/encoder/stage2_block1/shortcut/kernel"], kernel.transpose(2, 3, 1, 0))
    variance = files.made("bn1.running_var", (2,)).astype(np.float32)
    np.testing.assert_array_equal(found["batch_stats/encoder/stem_norm/var"], variance)
    assert taken.aside == ("module.queue",)
    assert str(taken).splitlines() == [
        "a ResNet of (1, 1, 1) blocks, 2 wide, from MoCo: 45 tensors of the encoder",
        "not taken: queue",
    ]


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_taken_and_said(tmp_path, dtype, suffix):
    half = files.made("conv1.weight", (2, 1, 3, 3)).astype(getattr(ml_dtypes, dtype, np.float16))
    taken = take(files.resnet8(tmp_path, suffix=suffix, **{"conv1.weight": half}))
    kernel = taken.branches["dense"]["params/encoder/stem/kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, half.astype(np.float32).transpose(2, 3, 1, 0))
    assert taken.notes == (f"types: {dtype} in the file, float32 here",)


def test_a_file_of_the_authors_has_norms_of_both_branches(tmp_path):
    lists = {}
    for name in ("bn1", "layer1.0.bn1", "layer1.0.bn2", "layer2.0.bn1", "layer2.0.bn2", "layer3.0.bn1", "layer3.0.bn2"):
        width = 2 if name == "bn1" else 2 ** int(name[5])
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            lists[f"{name}.{leaf}"] = None
            for i in (0, 1):
                lists[f"{name}.bn_list.{i}.{leaf}"] = np.full(width, 1 + i, np.float32)
    for stage, width in ((2, 4), (3, 8)):
        lists[f"layer{stage}.0.downsample.0.weight"] = None
        lists[f"layer{stage}.0.downsample.conv.weight"] = np.ones((width, width // 2, 1, 1), np.float32)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            lists[f"layer{stage}.0.downsample.1.{leaf}"] = None
            for i in (0, 1):
                lists[f"layer{stage}.0.downsample.bn.bn_list.{i}.{leaf}"] = np.full(width, 1 + i, np.float32)
    head = {"fc.fc1.weight": (6, 8), "fc.fc1.bias": (6,), "fc.fc2.weight": (4, 6)}
    head |= {f"fc.bn{n}.bn_list.{i}.{leaf}": ({1: 6, 2: 4}[n],) for n in (1, 2) for i in (0, 1)
             for leaf in ("weight", "bias", "running_mean", "running_var")}  # fmt: skip
    tensors = lists | {name: files.made(name, shape).astype(np.float32) for name, shape in head.items()}
    projector = {"params/projector/linear1/kernel": (8, 6), "params/projector/linear1/bias": (6,)}
    projector |= {"params/projector/linear2/kernel": (6, 4)}
    for n, width in ((1, 6), (2, 4)):
        projector |= {f"params/projector/norm{n}/{leaf}": (width,) for leaf in ("scale", "bias")}
        projector |= {f"batch_stats/projector/norm{n}/{leaf}": (width,) for leaf in ("mean", "var")}
    path = files.resnet8(tmp_path, **tensors)
    taken = take(path, shapes=SHAPES | projector)
    assert taken.branches.keys() == {"dense", "sparse"}
    for branch, value in (("dense", 1), ("sparse", 2)):
        found = taken.branches[branch]
        assert {name: x.shape for name, x in found.items()} == SHAPES | projector
        assert (found["params/encoder/stage3_block1/shortcut_norm/scale"] == value).all()
        assert (found["batch_stats/encoder/stem_norm/var"] == value).all()
    np.testing.assert_array_equal(
        taken.branches["dense"]["params/projector/linear1/kernel"], files.made("fc.fc1.weight", (6, 8)).T.astype("f4")
    )
    assert taken.aside == taken.notes == ()
    other = take(path, shapes=SHAPES | projector | {"params/projector/linear2/kernel": (6, 5)})
    assert {name.split("/")[1] for name in other.branches["dense"]} == {"encoder"}
    assert other.notes == ("projector: that of the file has other shapes, so ours starts new",)


def test_position_embeddings_of_another_size_are_interpolated_and_that_is_said(tmp_path):
    encoder = ENCODERS["vit_tiny"](patch=4, width=8, depth=1, heads=2)
    table = interop.SIDES[type(encoder)]["timm"].table
    tensors = {}
    for name, shape in files.shapes_of(encoder, 8).items():
        (there,) = interop.names.theirs(table, [name.split("/", 2)[2]]).values()
        tensors[there] = files.made(there, interop.names.their_shape(shape, there)).astype(np.float32)
    tensors["pos_embed"][:, 1:] = 3.0
    interop.write(tmp_path / "vit.safetensors", tensors, {})
    larger = files.shapes_of(encoder, 16)
    taken = take(tmp_path / "vit.safetensors", encoder, "vit_tiny", larger)
    found = taken.branches["dense"]["params/encoder/pos_embed"]
    assert found.shape == (1, 17, 8)
    np.testing.assert_array_equal(found[:, 0], tensors["pos_embed"][:, 0])
    np.testing.assert_allclose(found[:, 1:], 3, rtol=1e-6)
    assert taken.notes == (
        "heads: the file does not say how many, and 2 are taken (model.heads)",
        "pos_embed: interpolated (bicubic) from a grid of 2 x 2 to one of 4 x 4",
    )
    prefix, small = "module.base_encoder.", ENCODERS["vit_small"](patch=4, depth=1)
    tensors = {}
    for name, shape in files.shapes_of(small, 8).items():
        (there,) = interop.names.theirs(table, [name.split("/", 2)[2]]).values()
        tensors[prefix + there] = np.ones(interop.names.their_shape(shape, there), np.float32)
    interop.write(tmp_path / "v3.safetensors", tensors, {})
    with pytest.raises(UserError, match=r"12 heads, and vit_small has 6: for this file give .*--config.model.heads=12"):
        take(tmp_path / "v3.safetensors", small, "vit_small", files.shapes_of(small, 8))


NAN = np.array([1, np.nan], np.float32)
REFUSED = {
    "another width": (
        {"conv1.weight": np.ones((4, 1, 3, 3), np.float32)},
        r"is of a ResNet of \(1, 1, 1\) wide or grouped blocks, 4 wide, and not of resnet8: conv1.weight has the shape "
        r"\(4, 1, 3, 3\), and there it is \(2, 1, 3, 3\): no encoder of this version is like it",
    ),
    "colours": (
        {"conv1.weight": np.ones((2, 3, 3, 3), np.float32)},
        r"conv1.weight has the shape \(2, 3, 3, 3\), .* for this file give "
        r"--config.model.name=resnet8 --config.model.stem=cifar --config.model.width=2, and images of 3 channels",
    ),
    "a tensor less": ({"layer2.0.bn1.bias": None}, r"and not of resnet8: it lacks layer2\.0\.bn1\.bias"),
    "a block more": (
        {"layer3.1.conv1.weight": np.ones((8, 8, 3, 3), np.float32)},
        r"another architecture than resnet8, which has no layer3\.1\.conv1\.weight: no encoder of this version is like",
    ),
    "NaN": ({"bn1.running_mean": NAN}, r"bn1\.running_mean holds NaN or infinity, as after a run that diverged"),
    "whole numbers": ({"bn1.weight": np.ones(2, np.int32)}, r"bn1\.weight has the type (int32|I32), and weights are "),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("fault", REFUSED)
def test_what_does_not_fit_is_refused_by_name_and_shape(tmp_path, fault, suffix):
    changed, said = REFUSED[fault]
    with pytest.raises(UserError, match=said):
        take(files.resnet8(tmp_path, suffix=suffix, **changed))


def test_damaged_and_foreign_files_are_refused(tmp_path):
    whole = files.resnet8(tmp_path).read_bytes()
    cases = {
        "half.safetensors": (whole[: len(whole) // 2], r"half\.safetensors is no whole \.safetensors file \("),
        # A header of 10 GB: nothing of that size is read or taken.
        "header.safetensors": (
            struct.pack("<Q", 10 * 2**30) + b"{}",
            r"no whole \.safetensors file \(.*header too large",
        ),
        "empty.safetensors": (b"", r"no whole \.safetensors file"),
        "half.npz": (b"PK\x03\x04" + bytes(50), r"no whole \.npz file \("),
        "text.npz": (b"no archive", r"no whole \.npz file \("),
        "weights.onnx": (b"", r"is no file of weights by its name: those end in \.safetensors, \.npz"),
    }
    for name, (content, said) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=said):
            take(tmp_path / name)
    with (
        pytest.raises(UserError, match="^gs://b/x.safetensors is in a bucket, and weights are read from a disk only"),
        interop.opened("gs://b/x.safetensors"),
    ):
        pass
    with pytest.raises(UserError, match="there is no file .*nothing.safetensors"):
        take(tmp_path / "nothing.safetensors")
    interop.write(tmp_path / "other.safetensors", {"a.weight": np.ones(2, np.float32)}, {})
    with pytest.raises(
        UserError, match=r"holds no encoder of a kind that is known here \(its first tensors are a.weight"
    ):
        take(tmp_path / "other.safetensors")


def test_a_compressed_archive_that_is_damaged_anywhere_is_one_sentence(tmp_path):
    """Nothing but the file's own numbers comes out of it, or a sentence."""
    path, damaged = tmp_path / "whole.npz", tmp_path / "damaged.npz"
    kernel = np.round(np.random.default_rng(0).normal(size=(8, 3, 7, 7)), 1).astype(np.float32)
    np.savez_compressed(path, **{"conv1.weight": kernel})
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 11):
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            with interop.opened(damaged) as tensors:
                for name, tensor in tensors.items():
                    np.testing.assert_array_equal(interop.weights.read(tensor, name, damaged), kernel)
        except UserError as error:
            refused += 1
            assert "copy it again" in str(error) or "encrypted" in str(error)
    assert refused > 50


def test_an_encrypted_archive_says_so(tmp_path):
    path = tmp_path / "locked.npz"
    np.savez(path, **{"conv1.weight": np.zeros((2, 1, 3, 3), np.float32)})
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"locked\.npz: conv1\.weight\.npy is encrypted: save it without a password"):
        take(path)


def test_an_archive_that_says_it_is_larger_than_it_is_takes_no_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive, archive.open("conv1.weight.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
    with pytest.raises(UserError, match=r"no whole \.npz file \(conv1\.weight\.npy is too short"):
        take(tmp_path / "bomb.npz")


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def hostile_files(folder, mark):
    """A pickle under every name that a file of weights can have."""
    content = pickle.dumps({"state_dict": {"conv1.weight": Hostile(mark)}}, protocol=2)
    for suffix in interop.SUFFIXES:
        (folder / f"weights{suffix}").write_bytes(content)
        yield folder / f"weights{suffix}"
    with zipfile.ZipFile(folder / "zipped.pt", "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
    yield folder / "zipped.pt"
    np.savez(folder / "objects.npz", **{"conv1.weight": np.array([Hostile(mark)], object)})
    yield folder / "objects.npz"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("torch", ["without", "with"])
def test_nothing_in_a_hostile_pickle_runs(tmp_path, torch, monkeypatch):
    if torch == "with":
        pytest.importorskip("torch")
    else:
        monkeypatch.setitem(sys.modules, "torch", None)
    mark = tmp_path / "it_ran"
    for path in hostile_files(tmp_path, mark):
        with pytest.raises(UserError) as refused:
            take(path)
        assert not mark.exists(), path
        if torch == "without" and path.suffix not in (".safetensors", ".npz"):
            assert "reading it takes PyTorch: pip install torch" in str(refused.value)
    pickle.loads(pickle.dumps(Hostile(mark)))
    assert mark.exists()  # and it would have


def test_files_of_pytorch_are_read_where_it_is_installed(tmp_path):
    torch = pytest.importorskip("torch")
    with interop.opened(files.resnet8(tmp_path)) as tensors:
        state = {f"module.{name}": torch.from_numpy(x.read()) for name, x in tensors.items()}
    state["module.bn1.num_batches_tracked"] = torch.tensor(3)
    expected = take(files.resnet8(tmp_path)).branches["dense"]
    for new in (True, False):
        for held in (
            state,
            {"epoch": 7, "state_dict": state, "optim": {"state": {}}},
            {"model": {"state_dict": state}},
        ):
            torch.save(held, tmp_path / "model.pth.tar", _use_new_zipfile_serialization=new)
            taken = take(tmp_path / "model.pth.tar")
            for name, x in taken.branches["dense"].items():
                np.testing.assert_array_equal(x, expected[name])
            assert taken.aside == ("module.bn1.num_batches_tracked",)
    torch.save({name: x.bfloat16() if x.ndim else x for name, x in state.items()}, tmp_path / "half.pt")
    assert take(tmp_path / "half.pt").notes == ("types: bfloat16 in the file, float32 here",)
    content = (tmp_path / "half.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cut\.pt (is no whole \.pt file|holds more than weights, or is no file)"):
        take(tmp_path / "cut.pt")


class Fake(np.ndarray):
    """What is asked of a tensor of PyTorch's."""

    element_size = property(lambda self: lambda: self.itemsize)

    def detach(self):
        return self

    def numpy(self):
        return np.asarray(self)


def pytorch(held):
    return types.SimpleNamespace(load=lambda *_, **__: held, Tensor=np.ndarray)


def test_the_teacher_is_taken_and_what_else_the_file_holds_is_said(tmp_path, monkeypatch):
    """As DINO evaluates it; and of an encoder as solo-learn's, that its stem may be another."""
    whole = files.resnet8(tmp_path)
    with interop.opened(whole) as tensors:
        state = {name: x.read().view(Fake) for name, x in tensors.items()}
    centre = {"center": np.zeros((1, 4), np.float32)}
    held = {"student": {f"module.backbone.{name}": x * 0 for name, x in state.items()}, "dino_loss": centre}
    held |= {"optimizer": {"state": {}}, "teacher": {f"backbone.{name}": x for name, x in state.items()}, "epoch": 3}
    held["again"] = held  # a file may hold itself
    monkeypatch.setitem(sys.modules, "torch", pytorch(held))
    (tmp_path / "dino.pth").write_bytes(b"what torch.save wrote")
    taken, expected = take(tmp_path / "dino.pth"), take(whole)
    for name, x in expected.branches["dense"].items():
        np.testing.assert_array_equal(taken.branches["dense"][name], x)
    assert expected.notes == () and taken.notes == (
        "models: teacher is taken, and not 'student', 'again': to take another, save that alone",
        "stem: taken to pad by 1, since the file does not say it; the stem of solo-learn pads by 2, which gives other "
        "features",
    )
    for key, other in (("state_dict", "state_dict_ema"), ("model", "model_ema")):
        monkeypatch.setitem(sys.modules, "torch", pytorch({other: state, key: state}))
        (note,) = take(tmp_path / "dino.pth").notes
        assert note == f"models: {key} is taken, and not '{other}': to take another, save that alone"


def test_pytorch_that_is_installed_and_cannot_be_imported_is_not_said_to_be_missing(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    (tmp_path / "weights.pt").write_bytes(b"what torch.save wrote")
    with pytest.raises(UserError, match=r"and PyTorch cannot be imported here \(libcudart\.so\.13: cannot open"):
        take(tmp_path / "weights.pt")


@pytest.mark.parametrize("held", [[1, 2], (), 3.0, None, np.zeros(3)])
def test_a_file_of_pytorch_that_holds_no_state_dict_is_told_of(tmp_path, monkeypatch, held):
    monkeypatch.setitem(sys.modules, "torch", pytorch(held))
    (tmp_path / "list.pt").write_bytes(b"what torch.save wrote")
    with pytest.raises(UserError, match=rf"list\.pt holds one {type(held).__name__} and no state dict: save the state"):
        take(tmp_path / "list.pt")


def test_counters_of_norms_are_not_said_to_be_whole_norms():
    found = interop.Architecture("torchvision", "", "torchvision", {"name": "resnet18"}, "a ResNet", 3)
    aside = ("bn1.num_batches_tracked", "fc.weight", "fc.bias")
    taken = interop.Taken(found, {"dense": {"params/encoder/a": NAN}}, aside, ())
    assert str(taken).splitlines()[1] == "not taken: fc.*, *.num_batches_tracked"
