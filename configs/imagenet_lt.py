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

Cost: not measured (ResNet-50, 500 epochs of 115,846 images).
"""

from ml_collections import ConfigDict

from configs import photos


def get_config(method: str = "sdclr") -> ConfigDict:
    c = photos.get_config(method)

    c.data.name = "imagenet"
    c.data.profile = "pareto"
    c.data.n_max = 1280
    c.data.imbalance = 256.0
    c.data.validation_per_class = 20
    c.data.few_shot_per_class = 12  # about 1 %
    return c
