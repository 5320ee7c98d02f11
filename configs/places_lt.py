"""Places-LT: Liu et al., Large-Scale Long-Tailed Recognition in an Open World, CVPR 2019.

sdclr prepare places365 --root=PLACES
sdclr pretrain --config=places_lt:sdclr --config.data.root=PLACES --config.data.lists=LISTS \
    --workdir=runs/sdclr
sdclr evaluate runs/sdclr

PLACES holds data_256 and val_256 with places365_train_standard.txt, places365_val.txt and categories_places365.txt, as
published, or train/CLASS/*.jpg and val/CLASS/*.jpg; left empty, the data set is what tfds prepared as places365_small.
LISTS is a folder with Places_LT_train.txt, Places_LT_val.txt and Places_LT_test.txt, or some of them. Their paths may
be of either layout, data_256/b/bow_window/indoor/… or train/bow_window-indoor/….

Cost: not measured (ResNet-50, 500 epochs of 62,500 images; of 62,485 where the list is drawn). The recipe is that of
ImageNet-100-LT: there is none for this data set.
"""

from ml_collections import ConfigDict

from configs import methods, photos

DATA_SET = methods.merged(
    photos.FIELDS,
    photos.RESNET50,
    {
        "data": {
            "name": "places365",
            "profile": "pareto",
            # Power 1.34 and 62,500 images: https://github.com/zhmiao/OpenLongTailRecognition-OLTR/issues/38. The scale
            # is ours, fitted to that number.
            "pareto": (1.34, 0.01512),
            "n_max": 4980,
            "imbalance": 996.0,
            "validation_per_class": 20,
            "few_shot_per_class": 10,
        },
    },
)
RECIPE = methods.merged(methods.IMAGENET, {"moco": {"objective": {"queue": 32768}}})  # of 62,500 images


def get_config(method: str = "sdclr") -> ConfigDict:
    return methods.config(method, DATA_SET, RECIPE)
