"""An encoder as an ONNX graph, by jax2onnx, checked by onnxruntime before it is kept."""

import contextlib
import io
import logging
import math
from collections.abc import Iterator

import jax
import numpy as np

from sdclr_jax.errors import UserError, first_line, is_missing
from sdclr_jax.models import Encoder
from sdclr_jax.trees import Tree

OPSET = 20  # the oldest that has GELU
CLOSE = 1e-4  # of the largest feature


def converted(encoder: Encoder, variables: Tree, view: tuple[int, int, int]) -> bytes:
    """The file's content: images float32 [N, C, H, W], after preprocessing, -> features [N, D], for any N.

    Args:
        encoder: whose variables they are.
        variables: NumPy arrays.
        view: height, width and channels of the images.

    Raises:
        UserError: jax2onnx or onnxruntime cannot be imported, or what it made does not give the encoder's features.
    """
    try:
        import jax2onnx
        import onnxruntime
    except Exception as error:  # of other versions of what they stand on
        said = f"{error.name}, which is not installed" if is_missing(error) else ""
        said = said or f"jax2onnx and onnxruntime, which cannot be imported here ({first_line(error)})"
        raise UserError(f"ONNX takes {said}: pip install --upgrade jax2onnx onnxruntime") from error
    with _quiet():
        try:
            made = jax2onnx.to_onnx(
                lambda images: encoder.apply(variables, images, train=False),
                [("N", *view)],
                model_name="encoder",
                opset=OPSET,
                inputs_as_nchw=[0],
                input_names=["images"],
                output_names=["features"],
            )
        except Exception as error:  # a converter may raise anything
            raise UserError(
                f"jax2onnx cannot convert a {type(encoder).__name__} ({first_line(error)}): take --to=timm"
            ) from error
    del made.graph.value_info[:]  # shapes between the layers, some of them wrong; runtimes find them themselves
    content = made.SerializeToString()
    _check(onnxruntime, content, encoder, variables, view)
    return content


def _check(onnxruntime, content: bytes, encoder: Encoder, variables: Tree, view: tuple[int, int, int]) -> None:
    """Compare the features of batches of 1 and 3 images; a converter that is wrong somewhere raises nothing."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of its own kinds
        raise UserError(
            f"jax2onnx made a graph of this {type(encoder).__name__} that onnxruntime does not load "
            f"({first_line(error)}): it is not written; take --to=timm"
        ) from error
    apply = jax.jit(lambda images: encoder.apply(variables, images, train=False))
    for count in (1, 3):
        images = np.random.default_rng(count).standard_normal((count, *view)).astype(np.float32)
        (found,) = session.run(None, {session.get_inputs()[0].name: images.transpose(0, 3, 1, 2)})
        expected = np.asarray(apply(images), np.float32)
        if found.shape != expected.shape or not np.abs(found - expected).max() <= CLOSE * np.abs(expected).max():
            off = np.abs(found - expected).max() if found.shape == expected.shape else math.nan
            raise UserError(
                f"jax2onnx made a graph of this {type(encoder).__name__} that gives other features, off by {off:.2g}: "
                "it is not written; take --to=timm"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The converter tells of its own plugins as errors and warnings, and prints what it sees."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
