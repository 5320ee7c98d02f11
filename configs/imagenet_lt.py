"""ImageNet-LT: Liu et al., Large-Scale Long-Tailed Recognition in an Open World, CVPR 2019.

sdclr prepare imagenet --root=IMAGENET
sdclr pretrain --config=imagenet_lt:sdclr --config.data.root=IMAGENET --config.data.lists=LISTS \
    --workdir=runs/sdclr
sdclr evaluate runs/sdclr

IMAGENET holds train/CLASS/*.JPEG and val/CLASS/*.JPEG; left empty, the data set is what tfds prepared as imagenet2012.
LISTS is a folder with ImageNet_LT_train.txt, ImageNet_LT_val.txt and ImageNet_LT_test.txt, or some of them; what is
missing is drawn, and all of it where LISTS is left empty.

ImageNet-LT-exp, of Jiang et al., ICML 2021, is the exponential profile: --config.data.profile=exponential, with
imageNet_LT_exp_train.txt and imageNet_BL_exp_train.txt as lists.

Cost: not measured (ResNet-50, 500 epochs of 115,846 images; of 115,843 where the list is drawn).
"""

from ml_collections import ConfigDict

from configs import methods, photos

DATA_SET = methods.merged(
    photos.FIELDS,
    photos.RESNET50,
    {
        "data": {
            "name": "imagenet",
            "profile": "pareto",
            "n_max": 1280,
            "imbalance": 256.0,
            "validation_per_class": 20,
            "few_shot_per_class": 12,  # about 1 %
        },
    },
)
RECIPE = methods.IMAGENET


def get_config(method: str = "sdclr") -> ConfigDict:
    return methods.config(method, DATA_SET, RECIPE)
