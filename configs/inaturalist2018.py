"""iNaturalist 2018, which is long-tailed by nature: Van Horn et al., The iNaturalist Species Classification and
Detection Dataset, CVPR 2018.

sdclr prepare inaturalist2018 --root=INAT
sdclr pretrain --config=inaturalist2018:sdclr --config.data.root=INAT --workdir=runs/sdclr
sdclr evaluate runs/sdclr

INAT holds train_val2018/SUPER/CLASS/*.jpg with train2018.json and val2018.json, as published; left empty, the data set
is what tfds prepared as i_naturalist2018. Its published validation images are the test images; for validation, up to a
fifth of each class is drawn out of the training images.

Cost: not measured (ResNet-50, 100 epochs of about 430,000 images of 8,142 classes). The recipe is that of
ImageNet: there is none for this data set.
"""

from ml_collections import ConfigDict

from configs import methods, photos

DATA_SET = methods.merged(
    photos.FIELDS,
    photos.RESNET50,
    {
        "epochs": 100,
        "data": {"name": "inaturalist2018", "profile": "as_is", "validation_per_class": 3, "few_shot_per_class": 5},
    },
)
RECIPE = {row: {k: v for k, v in trained.items() if k != "epochs"} for row, trained in methods.IMAGENET.items()}


def get_config(method: str = "sdclr") -> ConfigDict:
    return methods.config(method, DATA_SET, RECIPE)
