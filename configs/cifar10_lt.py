"""CIFAR-10-LT, the published recipe: Jiang et al., Self-Damaging Contrastive Learning, ICML 2021.

sdclr prepare cifar10
sdclr pretrain --config=cifar10_lt:sdclr --config.data.lists=LISTS --config.data.split=1 --workdir=runs/sdclr
sdclr evaluate runs/sdclr --config.evaluate.protocols=train_cifar_full,train_cifar_few_shot

LISTS is a folder with the files of the authors' split/cifar10_imbSub_with_subsets and split/cifar10 (see
docs/datasets.md). Without data.lists and data.split, lists are drawn. The protocols are the paper's; without them, ours
are taken.

Cost: not measured yet (ResNet-18, 2,000 epochs of 11,165 images). The paper's numbers, not ours and
taken from secondary sources, for its five splits: linear probe, All, 75.55 for SimCLR and 82.00 for SDCLR.
"""

from ml_collections import ConfigDict

from configs import methods

DATA_SET = {
    "data": {
        "name": "cifar10",
        "seed": 1,  # of the lists that are drawn where data.lists is empty; the published ones are data.split 1 to 5
        "n_max": 4500,
        "imbalance": 100.0,
        "validation_per_class": 500,
        "few_shot_per_class": 45,  # 1 % of the images that are not for validation, as in the published lists
    },
}
RECIPE = methods.SMALL


def get_config(method: str = "sdclr") -> ConfigDict:
    return methods.config(method, DATA_SET, RECIPE)
