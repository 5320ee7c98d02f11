"""Long-tailed handwritten digits: 1,797 real 8 x 8 images that come with scikit-learn.

    sdclr pretrain --config=configs/digits_lt.py:sdclr --workdir=runs/sdclr
"""

from configs import base
from configs.methods import METHODS


def get_config(method: str = "sdclr"):
    c = base.get_config()
    c.update(METHODS[method])
    c.method = method
    return c
