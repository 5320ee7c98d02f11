"""CIFAR-100-LT, the published recipe: Jiang et al., Self-Damaging Contrastive Learning, ICML 2021.

sdclr prepare cifar100
sdclr pretrain --config=cifar100_lt:sdclr --config.data.lists=LISTS --config.data.split=1 --workdir=runs/sdclr
sdclr evaluate runs/sdclr --config.evaluate.protocols=train_cifar_full,train_cifar_few_shot

LISTS is a folder with the files of the authors' split/cifar100_imbSub_with_subsets and split/cifar100 (see
docs/datasets.md). Without data.lists and data.split, lists are drawn. The protocols are the paper's; without them, ours
are taken.

Cost: not measured yet (ResNet-18, 2,000 epochs of 9,754 images). The paper's numbers, not ours and
taken from secondary sources, for its five splits: linear probe, All, 47.11 for SimCLR and 55.48 for SDCLR.
"""

from ml_collections import ConfigDict

from configs import methods

DATA_SET = {
    "data": {
        "name": "cifar100",
        "seed": 1,  # of the lists that are drawn where data.lists is empty; the published ones are data.split 1 to 5
        "n_max": 450,
        "imbalance": 100.0,
        # Leaves 45,000 images to the full probe; the published list has 40,000 of them.
        "validation_per_class": 50,
        "few_shot_per_class": 4,  # 1 % of n_max, as in the published lists
    },
}
RECIPE = methods.SMALL


def get_config(method: str = "sdclr") -> ConfigDict:
    return methods.config(method, DATA_SET, RECIPE)
