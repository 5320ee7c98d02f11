"""What photographs of ordinary size have in common, whatever the data set; the data sets' files start from it.

The views are those of Jiang et al., ICML 2021, for ImageNet-100-LT, as their code has them (train_simCLR.py at
https://github.com/VITA-Group/SDCLR), where a method does not have its own.
"""

from ml_collections import ConfigDict

from configs import base, methods


def get_config(method: str, recipe: dict = methods.IMAGENET, model: str = "resnet50") -> ConfigDict:
    c = base.get_config()
    c.model.name = model
    c.model.stem = "imagenet"
    c.prune.rate = 0.3  # as published for ImageNet-100-LT, where 32 x 32 images have 0.9
    c.projector.hidden = 2048 if model == "resnet50" else 512  # as wide as the features, as in the authors' code
    c.views.size = 224
    c.views.crop_scale = (0.08, 1.0)
    c.views.blur_probability = 0.5
    methods.choose(c, method, recipe)

    c.data.groups = "counts"
    c.evaluate.sgd_batch_size = 512
    return c
