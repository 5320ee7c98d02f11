"""CelebA, whose 40 attributes are long-tailed: Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015.

sdclr prepare celeba --root=CELEBA
sdclr pretrain --config=celeba:sdclr --config.data.root=CELEBA --workdir=runs/sdclr
sdclr evaluate runs/sdclr

CELEBA holds img_align_celeba, list_attr_celeba.txt and list_eval_partition.txt, as published; left empty, the data set
is what tfds prepared as celeb_a. Many, medium and few are thirds of the attributes, by how many training images have
them.

Cost: not measured (ResNet-18, 100 epochs of 162,770 images). The recipe is ours: there is none for this data set.
"""

from ml_collections import ConfigDict

from configs import base, methods, photos

DATA_SET = methods.merged(
    photos.FIELDS,
    {
        "epochs": 100,
        "batch_size": 512,
        "optimizer": {"rate_moves": "after_update"},
        "data": {
            "name": "celeba",
            "profile": "as_is",
            "few_shot_per_class": 40,  # of 40 attributes: 1 % of the images
            "groups": "thirds",  # the rarest attribute has thousands of images
            "last_batch": "dropped",
        },
        "views": {"size": 128, "crop_scale": (0.2, 1.0)},  # an attribute can be a matter of a small part
    },
)
RECIPE = methods.SMALL


def get_config(method: str = "sdclr") -> ConfigDict:
    return base.seen_as_trained(methods.config(method, DATA_SET, RECIPE))
