"""A trained run in Python: its encoder, and features of images."""

import dataclasses
import importlib
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from sdclr_jax import files, numerics, parallel, recipes, records, trees
from sdclr_jax.data.crops import CentreCrop
from sdclr_jax.data.pictures import Picture, Pictures
from sdclr_jax.errors import UserError
from sdclr_jax.evaluation.frozen import FrozenEncoder
from sdclr_jax.records import EncoderRecord, names
from sdclr_jax.run import folder
from sdclr_jax.run.checkpoints import Checkpoints
from sdclr_jax.trees import Tree

Images = np.ndarray | Iterable[Picture]


@numerics.fixed()
def load(workdir: str | os.PathLike, *, step: int | None = None) -> "Run":
    """Open a run's folder; neither its data nor the state of its optimizer are read.

    Args:
        workdir: the --workdir of an `sdclr pretrain`, which may still be training.
        step: that of a checkpoint; None takes the newest one.

    Returns:
        The run with the encoder of its dense branch in memory.

    Raises:
        UserError: no run there, no checkpoint or none of this step, or a damaged file; or a newer version has written
            it.

    >>> run = sdclr_jax.load("runs/sdclr")
    >>> run.config.method, run.encoder.view.height
    ('sdclr', 8)
    """
    path = files.expanded(workdir).absolute()
    config = folder.read_config(path)
    record = _encoder_record(path, config)
    with Checkpoints(path / names.CHECKPOINTS, read_only=True) as checkpoints:
        found = checkpoints.encoder(step)
    if found is None:
        raise folder.no_checkpoint(path)
    step, variables = found
    return Run(path, config, step, record, _fitted(path, record, variables))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A trained run, as `load` opens it.

    Attributes:
        path: the run's folder, absolute.
        config: the config it was trained with.
        step: that of the checkpoint, in steps of training.
        encoder: what turns images into features, but for the weights: architecture, size of an image, mean and std.
        variables: the encoder's weights, {"params": tree, "batch_stats": tree} of NumPy arrays.
    """

    path: pathlib.Path
    config: ConfigDict
    step: int
    encoder: EncoderRecord
    variables: Tree
    _compiled: dict = dataclasses.field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, and for another process: without what is compiled, which makes itself again."""
        return self.__dict__ | {"_compiled": {}}

    def __fspath__(self) -> str:
        """The run's folder, so that a run is a path to all that takes one: `sdclr_jax.report([run])`."""
        return os.fspath(self.path)

    def __repr__(self) -> str:
        view, config = self.encoder.view, self.config
        return (
            f"<Run {self.path}: {config.get('method', '?')} on {config.get('data', {}).get('name', '?')}, step "
            f"{self.step}, {self.encoder.model['name']}, images of {view.height} x {view.width} x {view.channels} -> "
            f"{self.encoder.features} features>"
        )

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints that the run's folder has now, ascending; `load` opens one with `step`."""
        return folder.steps_in(self.path / names.CHECKPOINTS)

    @numerics.fixed()
    def encode(
        self,
        images: Images,
        *,
        batch_size: int | None = None,
        workers: int = 0,
        progress: bool = False,
        devices: Sequence[jax.Device] | None = None,
    ) -> np.ndarray:
        """Features of images, as `sdclr evaluate` makes them.

        A run on images of many sizes (`encoder.crop` is a number) takes images of any size and sees the middle of each,
        resized as `encoder.resize` and `encoder.crop` say. A run on images of one size takes an array of images of that
        size as they are; of files, PIL images and arrays in a list it sees the largest middle of that shape, in grey if
        the run is on grey images, resized to that size with Pillow's bicubic filter.

        Args:
            images: uint8 [N, H, W, C]; or a list of paths, of PIL images, or of uint8 arrays [H, W, C] of any sizes.
            batch_size: images a step; None takes the config's evaluate.batch_size. It is made larger where the devices
                cannot share it.
            workers: processes that decode, for a run on images of many sizes; 0 decodes in this one, -1 is one a core.
            progress: whether to draw a bar on the standard error.
            devices: None takes all of this process.

        Returns:
            float32 [N, D], in order; D is `encoder.features`.

        Raises:
            UserError: another type, dtype, shape or number of channels; or a file cannot be read, or is no image.

        >>> run = sdclr_jax.load("runs/sdclr")
        >>> features = run.encode(np.zeros((2, 8, 8, 1), np.uint8))  # or ["cat.jpg", "dog.png"]
        >>> features.shape == (2, run.encoder.features)
        True
        """
        checked = self._checked(images)
        if not len(checked):
            return np.empty((0, self.encoder.features), np.float32)
        batch_size = self.config.evaluate.batch_size if batch_size is None else batch_size
        for name, number, least in (("batch_size", batch_size, 1), ("workers", workers, -1)):
            if not isinstance(number, int | np.integer) or number < least:
                raise UserError(f"{name} is {number!r}: it must be a whole number of at least {least}")
        shardings = parallel.shardings(jax.local_devices() if devices is None else devices)
        if isinstance(checked, Pictures) and not self.encoder.crop:
            checked = checked.fitted(self.encoder.view.height, self.encoder.view.width)
        settings = batch_size, workers, shardings
        if settings not in self._compiled:
            self._compiled[settings] = FrozenEncoder(
                recipes.encoder(self.encoder.model),
                mean=self.encoder.mean,
                std=self.encoder.std,
                crop=self._crop,
                batch_size=batch_size,
                workers=workers,
                shardings=shardings,
            )
        return self._compiled[settings].features(self.variables, checked, progress=progress)

    def export(self, to: str, out: str | os.PathLike | None = None, **options: Any) -> pathlib.Path:
        """Write the encoder for other programs, as `sdclr_jax.export` does; returns the folder.

        >>> written = sdclr_jax.load("runs/sdclr").export(to="timm", out="for_timm")
        >>> sorted(path.name for path in written.iterdir())
        ['README.md', 'model.safetensors']
        """
        export = importlib.import_module("sdclr_jax.api.export").export  # which imports this file
        return export(self, to, out, step=self.step, **options)

    @property
    def _crop(self) -> CentreCrop:
        """What is seen of an image that may have any size."""
        side = self.encoder.view.height
        size, resize = self.encoder.crop or side, self.encoder.resize or side
        return CentreCrop(size=size, resize=resize, interpolation=self.encoder.interpolation)

    def _checked(self, images: Images) -> np.ndarray | Pictures:
        view = self.encoder.view
        images = _on_host(images)
        if isinstance(images, np.ndarray) and images.dtype.kind not in "OUS":
            _check_array(images, "images", ("N",), view.channels)
            if self.encoder.crop:
                return Pictures(list(images))
            if images.shape[1:] != (view.height, view.width, view.channels):
                raise UserError(
                    f"images have shape {images.shape}: this run takes [N, {view.height}, {view.width}, "
                    f"{view.channels}]; arrays of other sizes in a list are resized"
                )
            return images
        if isinstance(images, str | os.PathLike | Image.Image) or not isinstance(images, Iterable):
            raise UserError(f"images is a {type(images).__name__}: give a list, of one image too")
        images = list(map(_on_host, images))
        for i, image in enumerate(images):
            if isinstance(image, np.ndarray):
                _check_array(image, f"images[{i}]", (), view.channels)
            elif not isinstance(image, str | os.PathLike | Image.Image):
                raise UserError(
                    f"images[{i}] is a {type(image).__name__}: give paths, PIL images or uint8 arrays [H, W, C]"
                )
        return Pictures(images, grayscale=view.channels == 1, gray_range=self.encoder.gray_range)


def _on_host(image: Any) -> Any:
    """An array of JAX as one of NumPy; anything else as it is."""
    return np.asarray(image) if isinstance(image, jax.Array) else image


def _check_array(array: np.ndarray, name: str, before: tuple[str, ...], channels: int) -> None:
    if array.dtype != np.uint8:
        raise UserError(f"{name} has dtype {array.dtype}: give uint8, 0 to 255")
    if array.ndim != len(before) + 3 or array.shape[-1] != channels or 0 in array.shape[-3:]:
        raise UserError(f"{name} has shape {array.shape}: give [{', '.join((*before, 'H', 'W', str(channels)))}]")


def _encoder_record(path: pathlib.Path, config: ConfigDict) -> EncoderRecord:
    """encoder.json, or for a run of an older version, which has none, what its config says."""
    try:
        return records.read(EncoderRecord, path / names.ENCODER)
    except FileNotFoundError:
        pass
    try:
        return recipes.encoder_record_of_config(config)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} has no {names.ENCODER}, and its {names.CONFIG} does not say what the encoder is ({error}): put "
            "one of them back from a copy"
        ) from error


def _fitted(path: pathlib.Path, record: EncoderRecord, variables: Tree) -> Tree:
    """The variables for images of the record's size, which need not be that of the views in training."""
    try:
        encoder, expected = recipes.encoder(record.model), recipes.encoder_shapes(record)
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{path / names.ENCODER} names an encoder that is not made here ({error}): run the lines that add your own "
            f"first, or use the version that {names.VERSIONS} names"
        ) from error
    view = record.view
    variables = variables | {"params": encoder.for_views(variables["params"], view.height, view.width)}
    expected, found = ({name: x.shape for name, x in trees.named(tree).items()} for tree in (expected, variables))
    if expected != found:
        differing = next(name for name in expected | found if expected.get(name) != found.get(name))
        raise UserError(
            f"{path}: the encoder of the checkpoint is not that of {names.ENCODER} or {names.CONFIG} ({differing} "
            "differs): put them back from a copy"
        )
    return variables
