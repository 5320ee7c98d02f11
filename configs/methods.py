"""The methods: what differs between them, as data. `file.py:NAME` picks a row; its fields overwrite base.py's.

A pair says which branch sees which view, and what is compared with what. Damage is a matter of pairs alone: where
plain SimCLR shows both views to the dense branch, SDCLR shows the second one to the sparse branch.
"""

METHODS = {
    # Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020.
    "simclr": {"pairs": ((("dense", 0), ("dense", 1)),), "objective": {"name": "nt_xent"}},
    # Jiang et al., Self-Damaging Contrastive Learning, ICML 2021.
    "sdclr": {"pairs": ((("dense", 0), ("sparse", 1)),), "objective": {"name": "nt_xent"}},
}


def choose(config, name: str) -> None:
    """Overwrite the fields of `config` that the method `name` sets."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}: known are {', '.join(METHODS)}")
    config.method = name
    config.update(METHODS[name])
