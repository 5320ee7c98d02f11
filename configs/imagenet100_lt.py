"""ImageNet-100-LT, the published recipe: Jiang et al., Self-Damaging Contrastive Learning, ICML 2021.

sdclr prepare imagenet100 --root=IMAGENET
sdclr pretrain --config=imagenet100_lt:sdclr --config.data.root=IMAGENET --config.data.lists=LISTS \
    --workdir=runs/sdclr
sdclr evaluate runs/sdclr --config.evaluate.protocols=train_imagenet_full,train_imagenet_few_shot

IMAGENET holds train/CLASS/*.JPEG and val/CLASS/*.JPEG, of these 100 classes or of all; left empty, the data set is what
tfds prepared as imagenet2012. LISTS is a folder with the authors' split/imagenet-100 or part of it, at least
imageNet_100_LT_train.txt, which also says which classes these are. The
protocols are the paper's; without them, ours are taken.

The recipe is the authors' for SDCLR (cmds/shell_scrips/imagenet-100-res50-LT.sh in their repository, and its README).
SimCLR has the temperature 0.2 there. Here it has the same 0.3, so that both methods have the same settings.

Cost: not measured (ResNet-50, 500 epochs of 12,205 images). The paper's numbers, not ours and taken from secondary
sources: linear probe, All, 65.46 for SimCLR and 66.48 for SDCLR; on 1 % of the labels 42.16 and 42.38.
"""

from ml_collections import ConfigDict

from configs import methods, photos

DATA_SET = methods.merged(
    photos.FIELDS,
    photos.RESNET50,
    {
        "data": {
            "name": "imagenet100",
            "profile": "pareto",
            "n_max": 1280,
            "imbalance": 256.0,  # the published list's rarest class has 6 images
            "validation_per_class": 20,
            "few_shot_per_class": 12,  # 1 %
        },
    },
)
RECIPE = methods.merged(methods.IMAGENET, {"moco": {"objective": {"queue": 8192}}})  # of 12,205 images


def get_config(method: str = "sdclr") -> ConfigDict:
    return methods.config(method, DATA_SET, RECIPE)
