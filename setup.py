"""What setup.cfg cannot say: the configs of a clone's top folder are installed as `sdclr_jax.configs`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["sdclr_jax*"]), "sdclr_jax.configs"], package_dir={"sdclr_jax.configs": "configs"}
)
