"""What photographs of ordinary size have in common, whatever the data set; the data sets' files start from it.

The views are those of Jiang et al., ICML 2021, for ImageNet-100-LT, as their code has them (train_simCLR.py at
https://github.com/VITA-Group/SDCLR), where a method does not have its own.
"""

from ml_collections import ConfigDict

FIELDS = {
    "model": {"stem": "imagenet"},
    "prune": {"rate": 0.3},  # as published for ImageNet-100-LT, where 32 x 32 images have 0.9
    "data": {"groups": "counts"},
    "views": {"size": 224, "crop_scale": (0.08, 1.0), "blur_probability": 0.5},
    "evaluate": {"sgd_batch_size": 512},
}
# The projector is as wide as the features, as in the authors' code.
RESNET50 = {"model": {"name": "resnet50"}, "projector": {"hidden": 2048}}


def seen_as_trained(config: ConfigDict) -> ConfigDict:
    """Let what is evaluated follow the size of the views, where it is not given: the middle of an image that is larger
    by as much as in ImageNet's protocol, 256 to 224."""
    config.evaluate.crop = config.views.get_oneway_ref("size")
    config.evaluate.resize = (config.evaluate.get_oneway_ref("crop") * 256 + 112) // 224  # rounded
    return config
