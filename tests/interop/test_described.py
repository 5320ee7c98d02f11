"""What a file of weights is of, by names and shapes alone, and the config that becomes of it."""

import shlex

import pytest

from sdclr_jax import interop, recipes
from sdclr_jax.commands import flags
from sdclr_jax.errors import UserError
from sdclr_jax.models import ENCODERS


@pytest.mark.parametrize(
    ("width", "depth", "name", "heads"),
    [(192, 12, "vit_tiny", None), (384, 12, "vit_small", None), (768, 12, "vit_small", 12), (1024, 24, "vit_small", 16)]
    + [(1280, 32, "vit_small", 16), (8, 1, "vit_tiny", 1), (200, 1, "vit_tiny", 2)],
)
def test_a_vit_of_any_width_is_known_with_as_many_heads_as_such_have(width, depth, name, heads):
    shapes = {"patch_embed.proj.weight": (width, 3, 16, 16), "pos_embed": (1, 197, width)}
    shapes[f"blocks.{depth - 1}.attn.qkv.weight"] = (3 * width, width)
    found, config = interop.described(shapes), recipes.load("folder:simclr")
    recipes.choose_architecture(config, found)
    assert (config.model.name, config.model.width, config.model.depth) == (name, width, depth)
    assert config.model.heads == (heads or ENCODERS[name]().heads) and config.evaluate.crop == 224
    assert "heads" not in found.model  # the file does not say it, and a config may say another number
    recipes.encoder(config.model)
    recipes.override(config, {"views.size": 112})  # of which the evaluation sees as much
    assert (config.evaluate.crop, config.evaluate.resize) == (112, 128)


def convnext(*more, depths=(3, 3, 27, 3)):
    """The shapes by which such a file is known."""
    names = [f"stages.{s}.blocks.{b}.{leaf}" for s, n in enumerate(depths) for b in range(n) for leaf in more]
    return {"stem.0.weight": (96, 3, 4, 4)} | dict.fromkeys(names, (96, 1, 7, 7))


def test_what_a_refusal_says_to_give_can_be_pasted_into_a_shell(tmp_path):
    found = interop.described(convnext("conv_dw.weight", "gamma"))
    given = shlex.split(interop.taking._remedy(found).partition("give ")[2].partition(", and images")[0])
    assert "--config.model.depths=(3, 3, 27, 3)" in given
    config = flags.overridden(recipes.load("folder:simclr"), given)
    assert (config.model.name, config.model.depths, config.model.width) == ("convnext_tiny", (3, 3, 27, 3), 96)


@pytest.mark.parametrize(
    ("leaves", "says"),
    [
        (("conv_dw.weight", "mlp.grn.weight"), "a ConvNeXt V2 of"),
        (("conv_dw.weight",), "a ConvNeXt without layer scale of"),
    ],
)
def test_a_convnext_of_another_kind_is_called_what_it_is(leaves, says):
    with pytest.raises(UserError, match=rf"is of {says} \(2, 2, 6, 2\) blocks, 96 wide, and no encoder of this"):
        recipes.choose_architecture(
            recipes.load("folder:simclr"), interop.described(convnext(*leaves, depths=(2, 2, 6, 2)))
        )
