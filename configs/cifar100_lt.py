"""CIFAR-100-LT, the published recipe: Jiang et al., Self-Damaging Contrastive Learning, ICML 2021.

sdclr prepare cifar100
sdclr pretrain --config=cifar100_lt:sdclr --config.data.lists=FOLDER --workdir=runs/sdclr
sdclr evaluate runs/sdclr

Cost: not measured yet (ResNet-18, 2,000 epochs of 9,754 images). The paper's numbers, not ours and
taken from secondary sources, for its five splits: linear probe, All, 47.11 for SimCLR and 55.48 for SDCLR.
"""

from ml_collections import ConfigDict

from configs import base, methods


def get_config(method: str = "sdclr") -> ConfigDict:
    c = base.get_config()
    methods.choose(c, method)

    c.data.name = "cifar100"
    c.data.split = 1  # the authors' lists are numbered 1 to 5
    c.data.n_max = 450
    c.data.imbalance = 100.0
    c.data.validation_per_class = 50  # leaves 45,000 images to the full probe; the published list has 40,000 of them
    c.data.few_shot_per_class = 4  # 1 % of n_max, as in the published lists
    return c
