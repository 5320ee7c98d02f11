"""The methods: what differs between them, as data, and the order in which a config is put together.

A pair says which branch sees which view, and what is compared with what. Self-damage is a matter of pairs alone: the
damaged methods are those of their row with the other pairs. Where gradient stops at the second side of a pair, the
sparse branch stands on the first, which learns.

`METHODS` holds what a method is, for every data set; `SMALL` and `IMAGENET` are recipes: how each is trained. What has
no line in a recipe is trained as base.py and the data set's file say.
"""

import difflib

from ml_collections import ConfigDict

from configs import base

# Jiang et al., Self-Damaging Contrastive Learning, ICML 2021: damaged SimCLR has a name of its own.
DAMAGED_NAMES = {"simclr": "sdclr"}

# Each makes the pairs of `views` views; damaged, the odd views are seen by the sparse branch.


def _sides(views, damaged):
    return [("sparse" if damaged and view % 2 else "dense", view) for view in range(views)]


def each_other(views, damaged):
    """Every two views once; both learn."""
    sides = _sides(views, damaged)
    return tuple((a, b) for i, a in enumerate(sides) for b in sides[i + 1 :])


def codes_of_first_two(views, damaged):
    """Every view learns from views 0 and 1, but for itself."""
    sides = _sides(views, damaged)
    return tuple((a, b) for b in sides[:2] for a in sides if a != b)


def other_views_by(branch):
    """Every view learns from the others as `branch` sees them."""

    def pairs(views, damaged):
        return tuple((a, (branch, view)) for a in _sides(views, damaged) for view in range(views) if view != a[1])

    return pairs


def first_or_all(pairs):
    """Plain, view 0 alone learns; damaged, all do, so that the sparse branch gets a gradient."""
    return lambda views, damaged: pairs(views, damaged) if damaged else pairs(views, damaged)[:1]


# name -> (its pairs, its fields); base.py has the settings of each objective
ROWS = {
    # Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020.
    "simclr": (
        each_other,
        {"objective": {"name": "nt_xent"}},
    ),
    # He et al., Momentum Contrast, CVPR 2020, with the head and temperature of v2 (Chen et al., arXiv:2003.04297).
    "moco": (
        first_or_all(other_views_by("target")),
        {
            "objective": {"name": "info_nce"},
            "projector": {"layers": 2, "hidden": 2048, "out": 128, "hidden_norm": False, "last": "bias"},
            "target": {"momentum": 0.999, "final_momentum": 0.999},
        },
    ),
    # Grill et al., Bootstrap Your Own Latent, NeurIPS 2020.
    "byol": (
        other_views_by("target"),
        {
            "objective": {"name": "byol", "scale": 2.0},  # the two directions are added (Grill et al., section 3.1)
            "projector": {"layers": 2, "hidden": 4096, "out": 256, "last": "nothing"},
            "predictor": {"layers": 2, "hidden": 4096, "last": "nothing"},
            "target": {"momentum": 0.996, "final_momentum": 1.0},
        },
    ),
    # Chen and He, Exploring Simple Siamese Representation Learning, CVPR 2021. The second side is the dense branch.
    "simsiam": (
        other_views_by("dense"),
        {
            "objective": {"name": "simsiam"},
            "projector": {"layers": 3, "hidden": 2048, "out": 2048, "last": "plain_norm"},
            "predictor": {"layers": 2, "hidden": 512, "last": "bias"},
            "optimizer": {"constant_rate": ("predictor",)},
        },
    ),
    # Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, NeurIPS 2020.
    "swav": (
        codes_of_first_two,
        {
            "objective": {"name": "swav"},
            "projector": {"layers": 2, "hidden": 2048, "out": 128, "last": "bias"},
            "prototypes": {"count": 3000, "frozen_epochs": 1},
        },
    ),
    # Zbontar et al., Barlow Twins, ICML 2021.
    "barlow_twins": (
        each_other,
        {
            "objective": {"name": "barlow_twins"},
            "projector": {"layers": 3, "hidden": 8192, "out": 8192, "last": "nothing"},
        },
    ),
    # Ermolov et al., Whitening for Self-Supervised Representation Learning, ICML 2021, with two views.
    "w_mse": (
        each_other,
        {
            "objective": {"name": "w_mse"},
            "projector": {"layers": 2, "hidden": 1024, "out": 64, "last": "bias"},
        },
    ),
    # Bardes et al., VICReg, ICLR 2022.
    "vicreg": (
        each_other,
        {
            "objective": {"name": "vicreg"},
            "projector": {"layers": 3, "hidden": 8192, "out": 8192, "last": "nothing"},
        },
    ),
}

# name -> (the row's name, whether damaged)
METHODS = {name: (name, False) for name in ROWS} | {
    DAMAGED_NAMES.get(name, f"sd_{name}"): (name, True) for name in ROWS
}

# Images of 32 x 32, ResNet-18, batch 512. SimCLR as SDCLR's authors train both (base.py). The others but W-MSE and
# VICReg as in lightly's benchmark on CIFAR-10 with a batch of 512, whose heads and rates these are:
# https://github.com/lightly-ai/lightly/blob/0351a522d08b80d0d2a0e4e1ae75cf8b832239f6/docs/source/getting_started/benchmarks/cifar10_benchmark.py
# Their rate moves after each epoch and has no warm-up; ours has one, and moves with each update, since from 0 a whole
# epoch would change nothing.
_AFTER_UPDATE = {"rate_moves": "after_update"}
_SGD = _AFTER_UPDATE | {"learning_rate": 0.24, "weight_decay": 5e-4, "warmup_epochs": 10}
_ADAM = _AFTER_UPDATE | {"name": "adam", "weight_decay": 1e-6, "warmup_epochs": 10}
_DROPPED = {"last_batch": "dropped"}
SMALL = {
    "simclr": {},
    "moco": {
        "data": _DROPPED,
        "objective": {"queue": 4096},  # of 11,165 images in CIFAR-10-LT: 8 % of them meet their own earlier key in it
        "projector": {"hidden": 512},
        "target": {"momentum": 0.99, "final_momentum": 0.99},
        "optimizer": _SGD,
    },
    "byol": {
        "data": _DROPPED,
        "objective": {"scale": 0.5},  # they take the mean over the directions, of -cos and not of 2 - 2 cos
        "projector": {"hidden": 1024},
        "predictor": {"hidden": 1024},
        "target": {"momentum": 0.99, "final_momentum": 0.99},
        "optimizer": _SGD,
    },
    # The paper's own for CIFAR-10 (appendix D): 2 layers in the projector, 0.03 for a batch of 256, no warm-up. When
    # the rate moves, and what becomes of the last batch, is as in their code for ImageNet.
    "simsiam": {
        "data": _DROPPED,
        "projector": {"layers": 2},
        "optimizer": {
            "learning_rate": 0.06,
            "weight_decay": 5e-4,
            "warmup_epochs": 0,
            "final_learning_rate": 0.0,
            "rate_moves": "after_epoch",
        },
    },
    "swav": {
        "data": _DROPPED,
        "projector": {"hidden": 512},
        "prototypes": {"count": 512},
        "optimizer": _ADAM | {"learning_rate": 4e-3},
    },
    "barlow_twins": {
        "data": _DROPPED,
        "objective": {"scale": 1.0},
        "projector": {"layers": 2, "hidden": 2048, "out": 2048},
        "optimizer": _SGD,
    },
    # The authors' for CIFAR (W-MSE 2 in README.md, cfg.py and train.py of https://github.com/htdt/self-supervised):
    # batch 512, warm-up of 500 steps from a 500th on. They divide the rate by 5 at 50 and at 25 epochs before the end.
    "w_mse": {
        "data": _DROPPED,
        "optimizer": _ADAM | {"learning_rate": 3e-3, "warmup_epochs": 5, "rate_moves": "before_update"},
    },
    # As Barlow Twins.
    "vicreg": {
        "data": _DROPPED,
        "projector": {"layers": 2, "hidden": 2048, "out": 2048},
        "optimizer": _SGD,
    },
}

# ImageNet, ResNet-50, two views of 224 x 224, as the authors' code has it, which each recipe names; checked against
# it, not run here yet. A rate is for the batch beside it: in proportion for another, as theirs. Theirs, but not here:
# the last norm of a residual block starts from 0 (BYOL, SimSiam, Barlow Twins, VICReg); and BYOL's color jitter, which
# adds to the brightness and changes the contrast about the mean of each channel. docs/published.md has more.
_LARS = _AFTER_UPDATE | {"name": "lars", "decay_vectors": False, "final_learning_rate": 0.0}
_VIEWS = {"crop_scale": (0.08, 1.0), "blur_probability": 0.5, "size": 224}
_BILINEAR = {"interpolation": "bilinear"}  # torchvision's default
_COSINE = {"weight_decay": 1e-4, "warmup_epochs": 0, "final_learning_rate": 0.0, "rate_moves": "after_epoch"}
_STRONG_JITTER = {"jitter": (0.8, 0.8, 0.8, 0.2)}
# The two views of BYOL differ (Grill et al., Appendix B; byol/utils/augmentations.py); Barlow Twins and VICReg have
# taken them over.
_BYOL_VIEWS = {
    "jitter": (0.4, 0.4, 0.2, 0.1),
    "blur_probability": (1.0, 0.1),
    "solarize_probability": (0.0, 0.2),
}
IMAGENET = {
    # SDCLR's authors, for ImageNet-100 (VITA-Group/SDCLR: README.md, cmds/shell_scrips/imagenet-100-res50-LT.sh and
    # train_simCLR.py): SGD, rate 0.5 as in base.py, temperature 0.3 (they have 0.2 for SimCLR), prune rate 0.3.
    "simclr": {
        "epochs": 500,
        "batch_size": 256,
        "objective": {"temperature": 0.3},
        "prune": {"rate": 0.3},
        "views": _VIEWS,
    },
    # facebookresearch/moco, main_moco.py with what README.md sets for v2.
    "moco": {
        "epochs": 200,
        "batch_size": 256,
        "data": _DROPPED,
        "optimizer": _COSINE | {"learning_rate": 0.03},
        "views": _VIEWS | _BILINEAR | {"crop_scale": (0.2, 1.0)},
    },
    # google-deepmind/deepmind-research, byol/configs/byol.py and byol/utils/optimizers.py: 0.2 for every 256 images.
    "byol": {
        "epochs": 1000,
        "batch_size": 4096,
        "data": _DROPPED,  # theirs has no epochs: batches of an endless stream, and whole ones alone
        "optimizer": _LARS | {"learning_rate": 3.2, "weight_decay": 1.5e-6, "warmup_epochs": 10},
        "views": _VIEWS | _BYOL_VIEWS,
    },
    # facebookresearch/simsiam, main_simsiam.py with --fix-pred-lr: 0.05 for every 256 images, and 512 of them.
    "simsiam": {
        "epochs": 100,
        "batch_size": 512,
        "data": _DROPPED,
        "optimizer": _COSINE | {"learning_rate": 0.1},
        "views": _VIEWS | _BILINEAR | {"crop_scale": (0.2, 1.0)},
    },
    # facebookresearch/swav, scripts/swav_800ep_pretrain.sh: 64 devices of 64 images. Their warm-up starts from 0.3.
    "swav": {
        "epochs": 800,
        "batch_size": 4096,
        "number_of_views": 8,  # two of 224 and six of 96
        "data": _DROPPED,
        "optimizer": _AFTER_UPDATE
        | {
            "name": "lars",  # without exclusions, as the authors' wrapper
            "learning_rate": 4.8,
            "weight_decay": 1e-6,
            "warmup_epochs": 10,
            "final_learning_rate": 0.0048,
        },
        "views": _VIEWS
        | _BILINEAR
        | _STRONG_JITTER
        | {"crop_scale": (0.14, 1.0), "small_size": 96, "small_crop_scale": (0.05, 0.14)},
    },
    # facebookresearch/barlowtwins, main.py: 0.2 for every 256 images, and a thousandth of it at the end. LARS does not
    # feel the scale of the loss, so that 0.024 makes the rate of norms and biases: theirs is 0.2 * 0.024 = 0.0048.
    "barlow_twins": {
        "epochs": 1000,
        "batch_size": 2048,
        "optimizer": _LARS
        | {"learning_rate": 1.6, "weight_decay": 1e-6, "warmup_epochs": 10, "final_learning_rate": 1.6e-3},
        "views": _VIEWS | _BYOL_VIEWS,
    },
    # No recipe of the authors for ImageNet was at hand: this is theirs for Tiny ImageNet (W-MSE 2 in README.md, cfg.py
    # and datasets/transforms.py of htdt/self-supervised) on larger views. Warm-up is 500 steps there, 2.6 epochs of
    # Tiny ImageNet, and the rate falls as for CIFAR, above.
    "w_mse": {
        "epochs": 1000,
        "batch_size": 512,
        "data": _DROPPED,
        "objective": {"slice_size": 256, "repeats": 4},
        "projector": {"out": 128},
        "optimizer": _ADAM | {"learning_rate": 2e-3, "warmup_epochs": 3, "rate_moves": "before_update"},
        "views": _VIEWS | {"crop_scale": (0.2, 1.0), "grayscale_probability": 0.1, "blur_probability": 0.0},
    },
    # facebookresearch/vicreg, README.md, main_vicreg.py and augmentations.py: 0.2 for every 256 images. The final rate
    # is the paper's (section 4.2); their code has a thousandth, 0.0016.
    "vicreg": {
        "epochs": 1000,
        "batch_size": 2048,
        "optimizer": _LARS
        | {"learning_rate": 1.6, "weight_decay": 1e-6, "warmup_epochs": 10, "final_learning_rate": 0.002},
        "views": _VIEWS | _BYOL_VIEWS,
    },
}


def config(method: str, data_set: dict, recipe: dict = SMALL) -> ConfigDict:
    """The config of a method on a data set: `layers` over base.py's fields."""
    c = base.get_config()
    for fields in layers(method, data_set, recipe).values():
        base.lay(c, fields)
    return c


def choose(config: ConfigDict, method: str, recipe: dict = SMALL) -> None:
    """Overwrite the fields of `config` that a method and its line in a recipe set."""
    for fields in layers(method, {}, recipe).values():
        base.lay(config, fields)


def layers(method: str, data_set: dict, recipe: dict) -> dict[str, dict]:
    """What is laid over base.py's fields, in this order; the command line comes last."""
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, n=1, cutoff=0)[0]
        raise ValueError(f"unknown method {method!r}: the nearest is {near!r}, known are {', '.join(METHODS)}")
    row, damaged = METHODS[method]
    pairs, fields = ROWS[row]
    trained = dict(recipe.get(row, {}))
    views = trained.pop("number_of_views", 2)
    return {
        "data set": data_set,
        "method": {"method": method, "pairs": pairs(views, damaged)} | fields,
        "recipe": trained,
    }


def merged(*dictionaries: dict) -> dict:
    """One nested dictionary of several; of a field that stands in more than one, the last value."""
    one = {}
    for fields in dictionaries:
        for name, value in fields.items():
            one[name] = merged(one.get(name, {}), value) if isinstance(value, dict) else value
    return one
