"""Every field of a run, once, with its default and what it means.

The defaults are the published recipe of SDCLR for CIFAR-10-LT (Jiang et al., ICML 2021). A data set's own file changes
what differs there; `methods.py` holds what differs between methods. Override any field on the command line:

    sdclr pretrain --config=digits_lt:sdclr --config.prune.rate=0.7 --workdir=runs/sdclr-0.7
"""

from ml_collections import ConfigDict, FieldReference


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.method = "simclr"  # the row of methods.py that this run uses; reports group runs by it
    c.seed = 0  # of initialiser, order, views and random pruning; all randomness is a function of (seed, step)
    c.epochs = 2000
    c.batch_size = 512  # images a step, over all devices; each gives two views
    c.log_every = 20  # steps between lines of metrics, the only host synchronisation
    c.checkpoint_every = 100  # epochs between checkpoints; the last two are kept
    c.keep_every = 0  # checkpoints of epochs divisible by it are kept for good; 0 keeps none of them
    c.collapse_every = 100  # steps between measurements of collapse, each a forward pass; 0 measures none

    # Who is compared with whom: pairs of (branch, view); the first learns from the second, or both from each other.
    # Branches are 'dense', 'sparse' and 'target'. As many views are made as the pairs name, from 0 on.
    c.pairs = ((("dense", 0), ("dense", 1)),)

    c.objective = ConfigDict()  # a file of sdclr_jax/objectives and its settings; methods.py has those of each
    c.objective.name = "nt_xent"
    c.objective.temperature = 0.2
    c.objective.chunk = 0  # rows of the similarity matrix held at a time, for large batches; 0 holds it whole

    c.prune = ConfigDict()  # read only where a pair names the sparse branch
    c.prune.rate = 0.9  # share of all kernels of the encoder cut, by global magnitude
    c.prune.random_rate = 0.0  # share of them cut at random on top
    c.prune.every = 0  # steps between refreshes of the mask; 0 is every epoch
    c.prune.norms = "private"  # 'private': each branch its own norms and statistics; 'shared': one set for both

    # An encoder of sdclr_jax/models and its fields. Another one has others: --config.model.name=vit_tiny brings its own
    # with it, and a config file writes c.model = ConfigDict({"name": "vit_tiny", "patch": 8}).
    c.model = ConfigDict()
    c.model.name = "resnet18"
    c.model.stem = "cifar"  # 'cifar': one 3x3 convolution; 'imagenet': 7x7 at stride 2 and max-pooling
    c.model.width = 64  # channels of the first stage
    c.model.dtype = "float32"  # of the computation; 'bfloat16' on accelerators. Weights and loss stay float32

    c.projector = ConfigDict()
    c.projector.layers = 3  # the authors give SDCLR 3 and SimCLR 2: a confound, so all methods have 3 here
    c.projector.hidden = 512
    c.projector.out = 128
    c.projector.hidden_norm = True  # a batch norm after each layer but the last
    c.projector.last = "norm"  # after the last: 'norm', 'plain_norm' (no scale and bias), 'bias' (no norm) or 'nothing'

    c.predictor = ConfigDict()  # on the projection, for the objectives that compare predictions
    c.predictor.layers = 0  # 0: no predictor
    c.predictor.hidden = 512
    c.predictor.last = "nothing"  # as of the projector

    c.prototypes = ConfigDict()
    c.prototypes.count = 0  # 0: no prototypes
    c.prototypes.frozen_epochs = 1  # they stay where they start

    c.target = ConfigDict()  # read only where a pair names the target branch
    c.target.momentum = 0.99  # share that the target keeps of itself in the first step
    c.target.final_momentum = 1.0  # and in the last; between the two along a half cosine

    c.optimizer = ConfigDict()
    c.optimizer.name = "sgd"  # or 'lars' or 'adam'
    c.optimizer.learning_rate = 0.5
    c.optimizer.momentum = 0.9  # of Adam: the first beta
    c.optimizer.weight_decay = 1e-4
    c.optimizer.decay_vectors = True  # decay norms and biases too, as published; and, with 'lars', adapt their rate
    c.optimizer.trust_coefficient = 1e-3  # read by 'lars' alone
    c.optimizer.constant_rate = ()  # modules that keep learning_rate from first to last, such as 'predictor'
    c.optimizer.warmup_epochs = 10  # linear, from 0
    c.optimizer.final_learning_rate = 1e-6  # end of the cosine

    c.data = ConfigDict()
    c.data.name = "cifar10"  # or 'folder:/path/to/images', your own (sdclr_jax/data/sources/layouts.py)
    c.data.root = ""  # folder of a large data set as its publisher packed it; '' is what tfds prepared in --data_dir
    c.data.manifest = ""  # CSV file that says which images of 'folder:' count, and their labels and splits
    c.data.subset = "long_tail"  # what is pretrained on: 'long_tail', its 'balanced' twin, or all of 'probe_train'
    c.data.lists = ""  # folder of published lists (sdclr_jax/data/subsets/lists.py); '' draws our own by the same rule
    c.data.split = 0  # N in the names of those lists; or the seed of class order, subsets and validation images
    c.data.profile = "exponential"  # of the long tail: 'exponential', 'pareto', or 'as_is', what the data set has
    c.data.pareto = (6.0, 0.43366)  # power, and scale over n_max: ImageNet-LT's (sdclr_jax/data/subsets/profiles.py)
    c.data.n_max = 4500  # images of the most frequent class
    c.data.imbalance = 100.0  # n_max over the number of images of the rarest class
    # The next two are read where lists are drawn; a published list has its own. At most a fifth of a class 'as_is'.
    c.data.validation_per_class = 500  # images a class kept for choosing the probe's epoch and regularisation
    c.data.few_shot_per_class = 50  # labelled images a class of the few-shot probe
    c.data.groups = "thirds"  # many / medium / few: 'thirds' of the classes, or by 'counts' over 100 / below 20
    # The next two are read where images are decoded as they are needed; small sets lie on the devices whole.
    c.data.workers = -1  # processes that decode; -1 is one a core, 0 decodes in the process that trains
    c.data.prefetch = 2  # batches made ahead

    c.views = ConfigDict()  # a crop, a flip, colours, grey, blur: Chen et al., ICML 2020, Appendix A
    c.views.name = "simclr"
    c.views.size = 32  # side of a view in pixels
    c.views.crop_scale = (0.1, 1.0)  # share of the image's area
    c.views.small_size = 0  # side of the views from the third on (multi-crop); 0: as the others
    c.views.small_crop_scale = (0.05, 0.14)  # and their share of the area
    c.views.crop_ratio = (0.75, 4 / 3)  # width over height
    c.views.flip = 0.5  # probability
    c.views.jitter = (0.4, 0.4, 0.4, 0.1)  # strength of brightness, contrast, saturation, hue
    c.views.jitter_probability = 0.8
    c.views.grey_probability = 0.2
    # The next two may be a tuple, a number for each view, as BYOL has it.
    c.views.blur_probability = FieldReference(0.0, field_type=object)
    c.views.solarize_probability = FieldReference(0.0, field_type=object)  # of turning values above a half about
    c.views.blur_sigma = (0.1, 2.0)  # pixels
    c.views.mean = (0.485, 0.456, 0.406)  # subtracted from views in 0..1; ImageNet's, as published
    c.views.std = (0.229, 0.224, 0.225)

    c.evaluate = ConfigDict()
    # By name, of sdclr_jax/commands/protocols.py; `sdclr evaluate --help` lists them.
    c.evaluate.protocols = ("linear_full", "linear_few_shot", "logistic", "knn")
    c.evaluate.batch_size = 256  # images a step when features are extracted
    c.evaluate.sgd_learning_rate = 30.0  # of the published linear probe
    c.evaluate.sgd_batch_size = 128
    c.evaluate.augment = True  # whether the SGD probes train on views made afresh, or on features made once
    c.evaluate.padding = 4  # pixels around the probe's training images, from which a random crop is taken
    c.evaluate.flip = 0.5  # probability for the probe's training images
    # The next three are read where images have sizes of their own, in place of padding: the authors' ImageNet protocol
    # (github.com/VITA-Group/SDCLR, train_imagenet.py: RandomResizedCrop(224) and flip; Resize(256), CenterCrop(224)).
    c.evaluate.crop_scale = (0.08, 1.0)  # share of the image's area in the probe's random crops
    c.evaluate.resize = 256  # pixels of the shorter side of what is evaluated
    c.evaluate.crop = 224  # side of its middle that is seen, and of the probe's random crops
    c.evaluate.full_epochs = 30
    c.evaluate.full_drops = (10, 20)  # epochs after which the learning rate falls to a tenth
    c.evaluate.few_shot_epochs = 100
    c.evaluate.few_shot_drops = (40, 60)
    c.evaluate.logistic_l2 = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # tried at once; validation chooses
    c.evaluate.knn_k = 200
    c.evaluate.knn_temperature = 0.1
    c.evaluate.map_images = 2000  # test images on the map of features that reports show (t-SNE); 0 makes no map
    # The next four are of fine-tuning the whole encoder, as Chen et al., ICML 2020, appendix B.5, who have one rate for
    # both and batches of 4096 images, more than 1 % of CIFAR-10.
    c.evaluate.fine_tune_epochs = (60, 30)  # on 1 % and on 10 % of the labels
    c.evaluate.fine_tune_batch_size = 64
    c.evaluate.fine_tune_learning_rate = 0.05  # for a batch of 256, in proportion to it
    c.evaluate.fine_tune_head_learning_rate = 0.05  # the same, of the classifier on top
    # The next two are of pretraining, which may measure by neighbours and a light probe, on validation images alone.
    c.evaluate.every = 0  # epochs between measurements while pretraining; 0 makes none
    c.evaluate.live_images = 5000  # labelled images they learn from, at most
    return c
