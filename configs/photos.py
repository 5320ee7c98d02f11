"""What photographs of ordinary size have in common, whatever the data set: the recipe of Jiang et al., ICML 2021, for
ImageNet-100-LT (ResNet-50), as their shell script has it (cmds/shell_scrips/imagenet-100-res50-LT.sh at
https://github.com/VITA-Group/SDCLR). The data sets' files start from it.
"""

from ml_collections import ConfigDict

from configs import base, methods


def get_config(method: str = "sdclr") -> ConfigDict:
    c = base.get_config()
    methods.choose(c, method)

    c.epochs = 500
    c.batch_size = 256
    c.prune.rate = 0.3
    c.model.name = "resnet50"
    c.model.stem = "imagenet"
    c.projector.hidden = 2048  # as wide as the features, as in the authors' code
    if method == "sdclr":
        c.objective.temperature = 0.3  # theirs; SimCLR has 0.2, so give both the same to compare them

    c.data.groups = "counts"
    c.views.size = 224
    c.views.crop_scale = (0.08, 1.0)
    c.views.blur_probability = 0.5
    c.evaluate.sgd_batch_size = 512
    return c
