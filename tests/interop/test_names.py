"""Names and layouts against those of the real models, which experiments/interop.py wrote down."""

import numpy as np
import pytest

from sdclr_jax import interop, recipes
from sdclr_jax.errors import ArgumentError
from sdclr_jax.interop import names
from sdclr_jax.models import ENCODERS, Encoder
from tests.interop import files

SIDE = {"vit_tiny": 224, "convnext_tiny": 32}


@pytest.mark.parametrize(("library", "name"), files.names())
def test_every_tensor_has_its_place_and_shape_there_and_is_found_again(library, name):
    """A bijection: nothing is missing, nothing is left over but the classifier."""
    encoder = ENCODERS[name](**({"stem": "imagenet"} if name.startswith("resnet") else {}))
    side, real = names.side(encoder, library), files.names()[library, name]
    ours = {key.split("/", 2)[2]: shape for key, shape in files.shapes_of(encoder, SIDE.get(name, 64)).items()}
    there = names.theirs(side.table, ours)
    assert len(set(there.values())) == len(there)
    found = {there[key]: names.their_shape(shape, there[key]) for key, shape in ours.items()}
    classifier = {f"{side.classifier}.{leaf}": shape for leaf, shape in (("weight", (1000,)), ("bias", (1000,)))}
    assert {key: shape for key, shape in real.items() if key not in classifier} == found
    assert {key: real[key][:1] for key in classifier} == classifier
    known = interop.described(real)
    assert (known.model["name"], known.channels, known.prefix) == (name, 3, "")
    assert known.view == (224 if name == "vit_tiny" else None)
    assert type(ENCODERS[name](**{k: v for k, v in known.model.items() if k != "name"})) is type(encoder)


def test_layouts_are_there_and_back():
    rng = np.random.default_rng(0)
    for there, shape in {
        "conv1.weight": (7, 7, 3, 8),
        "fc.weight": (5, 3),
        "a.layer_scale": (4,),
        "b.gamma": (4,),
    }.items():
        x = rng.standard_normal(shape)
        np.testing.assert_array_equal(names.to_ours(names.to_theirs(x, there), there), x)
    x = rng.standard_normal((3, 2, 5, 4))  # height, width, in, out
    assert names.to_theirs(x, "conv1.weight")[1, 2, 0, 1] == x[0, 1, 2, 1]
    assert names.their_shape((4,), "a.layer_scale") == (4, 1, 1)


class Outside(Encoder):
    pass


@pytest.mark.parametrize(
    ("encoder", "to", "said"),
    [
        (Outside(), "timm", "to is 'timm', which has no names for a Outside: known are none"),
        (ENCODERS["vit_tiny"](), "torchvision", "no names for a ViT: known are timm"),
        (ENCODERS["convnext_tiny"](), "authors", "no names for a ConvNeXt: known are timm, torchvision"),
    ],
)
def test_a_side_that_has_no_such_encoder_says_so(encoder, to, said):
    with pytest.raises(ArgumentError, match=said):
        names.side(encoder, to)


@pytest.mark.parametrize(
    ("prefix", "beside", "source"),
    [
        ("", {"fc.weight": (1000, 8)}, "torchvision or timm"),
        ("module.encoder_q.", {"module.encoder_k.conv1.weight": (2, 1, 3, 3), "module.queue": (128, 9)}, "MoCo"),
        ("module.base_encoder.", {"module.predictor.0.weight": (4, 4)}, "MoCo v3"),
        ("module.encoder.", {"module.predictor.0.weight": (4, 4)}, "SimSiam"),
        ("module.backbone.", {"module.projector.0.weight": (4, 4)}, "Barlow Twins or VICReg"),
        ("module.", {"module.prototypes.weight": (30, 8), "module.projection_head.0.weight": (8, 8)}, "SwAV"),
        ("module.", {"module.fc.fc1.weight": (8, 8), "module.normalize.mean": (3,)}, "the authors of SDCLR"),
        ("module.", {"module.bn1.bn_list.0.weight": (2,)}, "the authors of SDCLR"),
    ],
)
def test_who_wrote_a_file_shows_in_its_names(prefix, beside, source):
    blocks = {f"layer{i}.0.conv1.weight": (2, 2, 3, 3) for i in (1, 2, 3)}
    shapes = {prefix + name: shape for name, shape in ({"conv1.weight": (2, 1, 3, 3)} | blocks).items()} | beside
    found = interop.described(shapes)
    assert (found.source, found.prefix) == (source, prefix)
    assert found.model == {"name": "resnet8", "stem": "cifar", "width": 2}
    assert interop.described({"x.conv2.weight": (1, 2, 3, 4)}) is None


@pytest.mark.parametrize(("prefix", "heads"), [("", 6), ("module.base_encoder.", 12)])
def test_the_heads_of_a_vit_are_those_of_who_wrote_it(prefix, heads):
    """Of one shape: MoCo v3's small ViT has 12, timm's 6."""
    shapes = {"patch_embed.proj.weight": (384, 3, 16, 16), "pos_embed": (1, 197, 384)}
    shapes |= {f"blocks.{i}.attn.qkv.weight": (1152, 384) for i in range(12)}
    config = recipes.load("folder:simclr")
    recipes.choose_architecture(config, interop.described({prefix + name: shape for name, shape in shapes.items()}))
    assert (config.model.name, config.model.heads) == ("vit_small", heads)


def test_a_resnet_of_another_kind_is_not_taken_for_the_usual_one():
    real = files.names()["torchvision", "resnet50"]
    for changed, shape in {"wide": (128, 128, 3, 3), "grouped": (128, 4, 3, 3)}.items():
        found = interop.described(real | {"layer1.0.conv2.weight": shape})
        assert (found.model["name"], "wide or grouped" in found.says) == ("", True), changed
