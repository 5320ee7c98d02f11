"""What photographs of ordinary size have in common, whatever the data set; the data sets' files start from it.

The views are those of Jiang et al., ICML 2021, for ImageNet-100-LT, as their code has them (train_simCLR.py at
https://github.com/VITA-Group/SDCLR), where a method does not have its own.
"""

FIELDS = {
    "model": {"stem": "imagenet"},
    "prune": {"rate": 0.3},  # as published for ImageNet-100-LT, where 32 x 32 images have 0.9
    "data": {"groups": "counts"},
    "views": {"size": 224, "crop_scale": (0.08, 1.0), "blur_probability": 0.5},
    "evaluate": {"sgd_batch_size": 512},
}
# The projector is as wide as the features, as in the authors' code.
RESNET50 = {"model": {"name": "resnet50"}, "projector": {"hidden": 2048}}
