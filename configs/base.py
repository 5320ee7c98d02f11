"""Every field of a run, once: its default, the values it takes, and what it means.

The defaults are the published recipe of SDCLR for CIFAR-10-LT (Jiang et al., ICML 2021). A data set's own file changes
what differs there; `methods.py` holds what differs between methods.

A run may be resumed with other values of the fields in `FREE` of sdclr_jax/records/config.py. Override any field on the
command line:

    sdclr pretrain --config=digits_lt:sdclr --config.prune.rate=0.7 --workdir=runs/sdclr-0.7
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict, FieldReference


class Field(NamedTuple):
    """A field's default, and what is accepted instead: numbers by an interval, each where there are several; names, or
    the table in the code that has them, as `module:TABLE`. None is any value of the default's type, or what the code
    that reads it checks."""

    default: Any
    accepted: str | tuple[str, ...] | None
    per_view: bool = False  # whether a tuple, a number for each view, is accepted too


# Upper bounds refuse a slip, such as a zero too many, that would take all memory, start processes without end or loop
# for hours before the first step. Each is far above what is published; what all fields take together is compared with
# the machine's memory (sdclr_jax/recipes/sizes.py).
STEPS = 2**31 - 1  # and epochs: steps are counted in int32
IMAGES = 2**20  # in a batch: the largest published have 2**15 (You et al., 2017: LARS)
QUEUE = 2**24  # embeddings; MoCo has 2**16
WIDTH = 2**16  # of a layer; the widest published has 2**16 (Caron et al., 2021: DINO)
LAYERS = 100  # they are compiled one after the other
SIDE = 4096  # of an image in pixels: one has 50 MB in uint8, 200 MB in float32

OBJECTIVES = {  # name of a file of sdclr_jax/objectives -> its settings
    "nt_xent": {
        "temperature": Field(0.2, "(0, inf)"),
        "chunk": Field(0, f"[0, {STEPS}]"),  # rows of the similarity matrix held at a time, for large batches; 0 is all
    },
    "info_nce": {
        "temperature": Field(0.2, "(0, inf)"),
        "queue": Field(65536, f"[0, {QUEUE}]"),  # earlier projections that are negatives
    },
    "byol": {"scale": Field(1.0, "(0, inf)")},  # factor on the loss
    "simsiam": {},
    "swav": {
        "temperature": Field(0.1, "(0, inf)"),
        "epsilon": Field(0.05, "(0, inf)"),
        "iterations": Field(3, "[1, 1000]"),  # of Sinkhorn, in each step
        "queue": Field(0, f"[0, {QUEUE}]"),  # earlier projections that the codes are over, with those of the batch
        "queue_start_epochs": Field(15, f"[0, {STEPS}]"),
    },
    "barlow_twins": {
        "redundancy": Field(0.0051, "[0, inf)"),
        "scale": Field(0.024, "(0, inf)"),
    },
    "w_mse": {
        "slice_size": Field(128, f"[0, {IMAGES}]"),  # rows whitened together; 0 is the whole batch
        "repeats": Field(1, "[1, 100]"),  # cuts a step, compiled one after the other
        "shrinkage": Field(0.0, "[0, 1]"),
    },
    "vicreg": {
        "invariance": Field(25.0, "[0, inf)"),
        "variance": Field(25.0, "[0, inf)"),
        "covariance": Field(1.0, "[0, inf)"),
    },
}

COMMON = {  # of every encoder
    # File of weights that the encoder starts from, such as one of torchvision's (docs/weights.md); '': random weights.
    "start": Field("", None),
    # What is in that file, which is what counts: filled in when the run starts; given, it refuses any other file.
    "start_sha256": Field("", None),
    # Whether the backward pass computes the inside of each block again, instead of storing it (rematerialisation):
    # less memory, a third more operations, the same numbers but for rounding.
    "remat": Field(False, None),
}
_RESNET = {
    "stem": Field("cifar", "sdclr_jax.models:STEMS"),  # 'cifar': one 3x3 convolution; 'imagenet': 7x7 and max-pooling
    "width": Field(64, "[1, 2048]"),  # channels of the first stage; ResNet-152x4 has 256
    "dtype": Field("float32", "sdclr_jax.recipes.encoders:DTYPES"),  # of the computation; weights and loss stay float32
}
# Encoder -> its settings. Other encoders of sdclr_jax/models have the fields and defaults of their own module, which
# refuses what it does not accept: --config.model.name=vit_tiny brings them.
MODELS = dict.fromkeys(("resnet8", "resnet10", "resnet18", "resnet34", "resnet50"), COMMON | _RESNET)

VIEWS = {  # name of a kind of views -> its settings
    # A crop, a flip, colors, grayscale, blur: Chen et al., ICML 2020, Appendix A.
    "simclr": {
        "size": Field(32, f"[1, {SIDE}]"),  # side of a view in pixels
        "crop_scale": Field((0.1, 1.0), "(0, 1]"),  # share of the image's area
        "small_size": Field(0, f"[0, {SIDE}]"),  # side of the views from the third on (multi-crop); 0: as the others
        "small_crop_scale": Field((0.05, 0.14), "(0, 1]"),  # and their share of the area
        "crop_ratio": Field((0.75, 4 / 3), "(0, inf)"),  # width over height
        "interpolation": Field("bicubic", "sdclr_jax.data.crops:INTERPOLATIONS"),  # of crops
        "flip": Field(0.5, "[0, 1]"),  # probability
        "jitter": Field((0.4, 0.4, 0.4, 0.1), "[0, inf)"),  # strength of brightness, contrast, saturation, hue
        "jitter_probability": Field(0.8, "[0, 1]"),
        "grayscale_probability": Field(0.2, "[0, 1]"),
        "blur_probability": Field(0.0, "[0, 1]", per_view=True),
        "solarize_probability": Field(0.0, "[0, 1]", per_view=True),  # of inverting values above a half
        "blur_sigma": Field((0.1, 2.0), "(0, inf)"),  # pixels
        "mean": Field((0.485, 0.456, 0.406), "(-inf, inf)"),  # subtracted from views in 0..1; ImageNet's, as published
        "std": Field((0.229, 0.224, 0.225), "(0, inf)"),
    },
    # For tiny pictures on black, without a flip: a digit has a handedness.
    "digits": {
        "crop_scale": Field((0.5, 1.0), "(0, 1]"),  # share of the image's area
        "rotation": Field(15.0, "[0, 180]"),  # degrees, either way
        "shift": Field(1.0, "[0, inf)"),  # pixels, either way
        "contrast": Field(0.4, "[0, 1]"),  # factor from 1 - contrast to 1 + contrast
        "mean": Field((0.305,), "(-inf, inf)"),  # those of the digits of digits_lt.py
        "std": Field((0.376,), "(0, inf)"),
    },
}

# Groups whose fields depend on their `name`: naming another kind brings that kind's fields.
KINDS = {"objective": OBJECTIVES, "model": MODELS, "views": VIEWS}

LAST = "sdclr_jax.models:LAST"
FIELDS = {
    "method": Field("simclr", None),  # the row of methods.py that this run uses; reports group runs by it
    # Of initialiser, order, views and random pruning; all randomness is a function of (seed, step).
    "seed": Field(0, "[0, 4294967296)"),
    "epochs": Field(2000, f"[1, {STEPS}]"),
    "batch_size": Field(512, f"[2, {IMAGES}]"),  # images a step, over all devices; each gives two views
    # Whether each device holds a share of the weights, the optimizer, the target and the mask between steps, for large
    # encoders, instead of all of them: as FSDP and ZeRO have it.
    "shard_state": Field(False, None),
    # Steps that are one program, where nothing is due between them: it hides the host from accelerators, and keeps that
    # many batches there twice. On CPUs, where convolutions in a loop are very slow, leave it at 1.
    "steps_per_dispatch": Field(1, "[1, 1024]"),
    "log_every": Field(20, f"[1, {STEPS}]"),  # steps between lines of metrics, the only host synchronisation
    # Project of Weights & Biases that metrics are sent to, too; '' sends nothing. Takes `pip install wandb`.
    "wandb": Field("", None),
    "checkpoint_every": Field(100, f"[1, {STEPS}]"),  # epochs between checkpoints; the last two are kept
    "keep_every": Field(0, f"[0, {STEPS}]"),  # checkpoints of epochs divisible by it are kept for good; 0 keeps none
    "collapse_every": Field(100, f"[0, {STEPS}]"),  # steps between measurements of collapse, a forward pass; 0: none
    # Who is compared with whom: pairs of (branch, view); the first learns from the second, or both from each other.
    # Branches are 'dense', 'sparse' and 'target'. As many views are made as the pairs name, from 0 on.
    "pairs": Field(((("dense", 0), ("dense", 1)),), None),
    "objective": {"name": Field("nt_xent", "sdclr_jax.objectives:OBJECTIVES"), **OBJECTIVES["nt_xent"]},
    "prune": {  # read only where a pair names the sparse branch
        "rate": Field(0.9, "[0, 1)"),  # share of all kernels of the encoder cut, by global magnitude
        # Which are cut: the 'smallest' as published; 'random' ones or the 'largest', as many, are controls.
        "criterion": Field("smallest", "sdclr_jax.pruning:CRITERIA"),
        "random_rate": Field(0.0, "[0, 1)"),  # share of them cut at random, in addition
        # Steps between refreshes of the mask; 0 is every epoch, and -1 never: the mask of the first step stays.
        "every": Field(0, f"[-1, {STEPS}]"),
        # 'private': each branch its own norms and statistics; 'shared': one set for both
        "norms": Field("private", ("private", "shared")),
        # Whether the gradient flows through the sparse branch too, as published. If not, the dense branch alone learns.
        "gradient": Field(True, None),
    },
    "model": {"name": Field("resnet18", "sdclr_jax.models:ENCODERS"), **MODELS["resnet18"]},
    "projector": {
        # The authors give SDCLR 3 and SimCLR 2: a confound, so all methods have 3 here.
        "layers": Field(3, f"[1, {LAYERS}]"),
        "hidden": Field(512, f"[1, {WIDTH}]"),
        "out": Field(128, f"[1, {WIDTH}]"),
        "hidden_norm": Field(True, None),  # a batch norm after each layer but the last
        # After the last: 'norm', 'plain_norm' (no scale and bias), 'bias' (no norm) or 'nothing'.
        "last": Field("norm", LAST),
    },
    "predictor": {  # on the projection, for the objectives that compare predictions
        "layers": Field(0, f"[0, {LAYERS}]"),  # 0: no predictor
        "hidden": Field(512, f"[1, {WIDTH}]"),
        "last": Field("nothing", LAST),  # as of the projector
    },
    "prototypes": {
        "count": Field(0, "[0, 1048576]"),  # 0: no prototypes; SwAV has 3,000
        "frozen_epochs": Field(1, f"[0, {STEPS}]"),  # they stay where they start
    },
    "target": {  # read only where a pair names the target branch
        "momentum": Field(0.99, "[0, 1]"),  # share that the target keeps of itself in the first step
        "final_momentum": Field(1.0, "[0, 1]"),  # and in the last; between the two along a half cosine
    },
    "optimizer": {
        "name": Field("sgd", "sdclr_jax.optim:OPTIMIZERS"),
        "learning_rate": Field(0.5, "(0, inf)"),
        "momentum": Field(0.9, "[0, 1)"),  # of Adam: the first beta
        "weight_decay": Field(1e-4, "[0, inf)"),
        # Decay norms and biases too, as published; and, with 'lars', adapt their rate.
        "decay_vectors": Field(True, None),
        "trust_coefficient": Field(1e-3, "(0, inf)"),  # read by 'lars' alone
        # Modules that keep learning_rate from first to last.
        "constant_rate": Field((), ("encoder", "projector", "predictor", "prototypes")),
        "warmup_epochs": Field(10, f"[0, {STEPS}]"),  # linear, from 0
        "final_learning_rate": Field(1e-6, "[0, inf)"),  # end of the cosine
        # When the rate moves on along this curve. 'before_update', as in the authors' loop: update k, from 0 on, has
        # the rate curve(k + 1); 'after_update': curve(k); 'after_epoch': all updates of an epoch use the rate of its
        # first update.
        "rate_moves": Field("before_update", "sdclr_jax.optim:RATE_MOVES"),
    },
    "data": {
        "name": Field("cifar10", None),  # or 'folder:/path/to/images', your own (sdclr_jax/data/sources/layouts.py)
        # Folder of a large data set as its publisher packed it; '' is what tfds prepared in --data_dir.
        "root": Field("", None),
        "manifest": Field("", None),  # CSV file that says which images of 'folder:' count, their labels and splits
        # Values that are black and white in gray images of more than eight bits of 'folder:', such as (0.0, 4095.0) for
        # 12 bits in files of 16; zeros are the range of each image's own type.
        "gray_range": Field((0.0, 0.0), "(-inf, inf)"),
        # How classes of 'folder:' are sorted: 'natural', 2 before 10, or 'text', by characters, as in older runs.
        "class_order": Field("natural", "sdclr_jax.data.sources.layouts:CLASS_ORDERS"),
        # What is pretrained on: 'long_tail', its 'balanced' twin, or all of 'probe_train'.
        "subset": Field("long_tail", ("long_tail", "balanced", "probe_train")),
        # File of ids, one a line, of images that are left out of that subset: sdclr_jax/data/subsets/lists.py.
        "without": Field("", None),
        # Folder of published lists (sdclr_jax/data/subsets/lists.py); '' draws our own by the same rule.
        "lists": Field("", None),
        "split": Field(0, "[0, 1000000]"),  # N in the names of those lists; 0 where none is read
        # Of what is drawn: class order, subsets, validation images, a folder's test images.
        "seed": Field(0, "[0, 4294967296)"),
        # Of the long tail: 'exponential', 'pareto', or 'as_is', what the data set has.
        "profile": Field("exponential", "sdclr_jax.data.subsets.profiles:PROFILES"),
        # Power, and scale over n_max: ImageNet-LT's (sdclr_jax/data/subsets/profiles.py).
        "pareto": Field((6.0, 0.43366), "(0, inf)"),
        "n_max": Field(4500, f"[1, {STEPS}]"),  # images of the most frequent class
        "imbalance": Field(100.0, "[1, inf)"),  # n_max over the number of images of the rarest class
        # The next two are read where lists are drawn; a published list has its own. At most a fifth of a class 'as_is'.
        # Images a class kept for choosing the probe's epoch and regularisation.
        "validation_per_class": Field(500, f"[1, {STEPS}]"),
        "few_shot_per_class": Field(50, f"[1, {STEPS}]"),  # labelled images a class of the few-shot probe
        # Many / medium / few: 'thirds' of the classes, or by 'counts' over 100 / below 20.
        "groups": Field("thirds", "sdclr_jax.data.subsets.longtail:GROUP_RULES"),
        # The images of an epoch that do not fill a batch: 'kept' as a smaller batch, as in the authors' code, for which
        # a second step is compiled; or 'dropped' from this epoch.
        "last_batch": Field("kept", "sdclr_jax.data.order:LAST_BATCHES"),
        # Where images wait: 'resident', all of them on the devices; 'streamed', on the host, and each batch is sent;
        # 'auto' is resident for a set that is decoded already, and streamed for files.
        "input": Field("auto", ("auto", "resident", "streamed")),
        # Processes that decode files; -1 is one a core, 0 decodes where it trains. A small machine takes fewer than the
        # bound here (sdclr_jax/data/batches.py).
        "workers": Field(-1, "[-1, 1024]"),
        "prefetch": Field(2, "[1, 256]"),  # batches made ahead, where they are streamed
    },
    "views": {"name": Field("simclr", "sdclr_jax.recipes.images:VIEWS"), **VIEWS["simclr"]},
    "evaluate": {
        "protocols": Field(  # by name; `sdclr evaluate --help` lists them
            ("linear_full", "linear_few_shot", "logistic", "knn"), "sdclr_jax.evaluation.protocols:PROTOCOLS"
        ),
        "batch_size": Field(256, "[1, 65536]"),  # images a step when features are extracted
        "sgd_learning_rate": Field(30.0, "(0, inf)"),  # of the published linear probe
        "sgd_batch_size": Field(128, f"[1, {IMAGES}]"),
        "augment": Field(True, None),  # whether the SGD probes train on new views in each epoch, or on fixed features
        "padding": Field(4, "[0, 256]"),  # pixels around the probe's training images, from which a random crop is taken
        "flip": Field(0.5, "[0, 1]"),  # probability for the probe's training images
        # The next four are read where images have sizes of their own, in place of padding: the authors' ImageNet
        # protocol (github.com/VITA-Group/SDCLR, train_imagenet.py: RandomResizedCrop(224) and flip; Resize(256),
        # CenterCrop(224)). `folder` and `celeba` follow views.size instead (below).
        "crop_scale": Field((0.08, 1.0), "(0, 1]"),  # share of the image's area in the probe's random crops
        "resize": Field(256, f"[1, {2 * SIDE}]"),  # pixels of the shorter side of what is evaluated
        "crop": Field(224, f"[1, {SIDE}]"),  # side of its middle that is seen, and of the probe's random crops
        "interpolation": Field("bilinear", "sdclr_jax.data.crops:INTERPOLATIONS"),  # of both; torchvision's default
        "full_epochs": Field(30, "[1, 100000]"),
        "full_drops": Field((10, 20), f"[1, {STEPS}]"),  # epochs after which the learning rate falls to a tenth
        "few_shot_epochs": Field(100, "[1, 100000]"),
        "few_shot_drops": Field((40, 60), f"[1, {STEPS}]"),
        # Tried at once; validation chooses.
        "logistic_l2": Field((1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1), "(0, inf)"),
        "knn_k": Field(200, "[1, 65536]"),  # 0.5 MB of neighbours for each image of a batch
        "knn_temperature": Field(0.1, "(0, inf)"),
        # Test images on the map of features that reports show (t-SNE), 4 or more; 0 makes no map. One of 8,000 took
        # 85 CPU-seconds; ImageNet has 50,000.
        "map_images": Field(2000, "[0, 50000]"),
        # The next four are of fine-tuning the whole encoder, as Chen et al., ICML 2020, appendix B.5, who have one rate
        # for both and batches of 4096 images, more than 1 % of CIFAR-10.
        "fine_tune_epochs": Field((60, 30), "[1, 100000]"),  # on 1 % and on 10 % of the labels
        "fine_tune_batch_size": Field(64, "[2, 65536]"),
        "fine_tune_learning_rate": Field(0.05, "[0, inf)"),  # for a batch of 256, in proportion to it
        "fine_tune_head_learning_rate": Field(0.05, "(0, inf)"),  # the same, of the classifier on top
        # The next two are of pretraining, which may measure by neighbours and by ridge, a fast linear probe, on
        # validation images.
        "every": Field(0, f"[0, {STEPS}]"),  # epochs between measurements while pretraining; 0 makes none
        "live_images": Field(5000, f"[1, {IMAGES}]"),  # labelled images they learn from, at most
    },
}


def get_config() -> ConfigDict:
    """The defaults."""
    return ConfigDict(_defaults(FIELDS))


def lay(config: ConfigDict, fields: dict[str, Any]) -> None:
    """Overwrite fields of `config` by those of a nested dictionary, in place."""
    for name, value in fields.items():
        if not isinstance(value, dict):
            config[name] = value
            continue
        if name in KINDS and "name" in value:
            config[name] = ConfigDict({"name": value["name"]} | _defaults(KINDS[name].get(value["name"], {})))
        config.update({name: value})


def seen_as_trained(config: ConfigDict) -> ConfigDict:
    """Let what is evaluated follow the size of the views, where it is not given: the middle of an image that is larger
    by as much as in ImageNet's protocol, 256 to 224."""
    config.evaluate.crop = config.views.get_ref("size") + 0  # one way, and in terms that pickle
    config.evaluate.resize = (config.evaluate.get_ref("crop") * 256 + 112) // 224  # rounded
    return config


def _defaults(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: _default(field) if isinstance(field, Field) else _defaults(field) for name, field in fields.items()}


def _default(field: Field) -> Any:
    return FieldReference(field.default, field_type=object) if field.per_view else field.default
