"""Write the encoder of a run for other programs."""

import json
import numbers
import os
import pathlib
from typing import Any

import jax
import numpy as np

from sdclr_jax import files, interop, numerics, parallel, recipes, records, trees
from sdclr_jax.api.load import Run, load
from sdclr_jax.errors import UserError, renamed
from sdclr_jax.interop import onnx
from sdclr_jax.interop.card import card
from sdclr_jax.interop.usage import Usage
from sdclr_jax.records import Results, names
from sdclr_jax.run import folder
from sdclr_jax.run.checkpoints import Checkpoints

KINDS = ("torchvision", "timm", "authors", "onnx", "hub-folder")


def export(
    run: Any,
    to: str,
    out: str | os.PathLike | None = None,
    *,
    step: int | None = None,
    classes: int = 1000,
    data_license: str = "",
) -> pathlib.Path:
    """Write the dense encoder of a run into a new folder, with a model card; nothing in it can be executed.

    Args:
        run: the run's folder, or an object whose `path` it is.
        to: 'torchvision' or 'timm', model.safetensors under the names of these libraries; 'authors', the same for the
            code of the SDCLR authors, with the projector and the norms of both branches; 'onnx', model.onnx, for
            float32 images [N, C, H, W] after preprocessing; 'hub-folder', what a model hub shows and timm loads.
        out: a folder that does not exist yet, or is empty; None is `export/TO` in the run's folder.
        step: that of a checkpoint; None takes that at which the object is opened, of a folder the newest one.
        classes: outputs of the classifier of zeros that 'torchvision' and 'timm' files have, as these libraries want
            one; 0 writes none.
        data_license: of the images, for the model card.

    Returns:
        The folder.

    Raises:
        UserError: no run there, or no checkpoint; the folder is not empty; the other side has no such encoder; or
            'onnx' without its extra.

    >>> written = sdclr_jax.export("runs/sdclr", to="torchvision", out="exported")
    >>> sorted(path.name for path in written.iterdir())
    ['README.md', 'model.safetensors']
    """
    return written(run, to, out, step=step, classes=classes, data_license=data_license)[0]


@numerics.fixed()
def written(
    run: Any, to: str, out: str | os.PathLike | None, *, step: int | None, classes: int, data_license: str
) -> tuple[pathlib.Path, Usage]:
    """As `export`; and how the folder is loaded."""
    if to not in KINDS:
        raise UserError(f"to is {to!r}: known are {', '.join(KINDS)}")
    if not isinstance(classes, numbers.Integral) or classes < 0:
        raise UserError(f"classes is {classes!r}: it must be a whole number of at least 0")
    opened = load(getattr(run, "path", run), step=getattr(run, "step", None) if step is None else step)
    directory = opened.path / names.EXPORT / to if out is None else files.expanded(out)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} is there already: delete it, or give another --out")
    folder.check_writable(directory)
    of_run = _of_run(opened)  # first, so that nothing is written where the run is damaged
    with renamed({"to": "to"}):
        writers = {"onnx": _onnx, "authors": _authors, "hub-folder": _hub}
        usage = writers.get(to, _library)(opened, directory, to, int(classes))
    files.write(directory / "README.md", _card(opened, usage, data_license, of_run).encode())
    return directory, usage


def _library(run: Run, directory: pathlib.Path, to: str, classes: int) -> Usage:
    """Under the names of torchvision or timm."""
    encoder = recipes.encoder(run.encoder.model)
    tensors = interop.encoder_tensors(
        encoder, trees.named(run.variables), to, features=run.encoder.features, classes=classes
    )
    interop.write(directory / "model.safetensors", tensors, _about(run))
    return Usage(run.encoder, to, classes)


def _hub(run: Run, directory: pathlib.Path, to: str, classes: int) -> Usage:
    usage = _library(run, directory, "timm", 0)._replace(to=to)
    if about := usage.of_timm():
        files.write(directory / "config.json", (json.dumps(about, indent=1) + "\n").encode())
    records.write(directory / names.ENCODER, run.encoder)
    return usage


def _authors(run: Run, directory: pathlib.Path, to: str, classes: int) -> Usage:
    """The whole network, with the norms of both branches."""
    view, config = run.encoder.view, run.config
    interop.names.side(recipes.encoder(run.encoder.model), "authors")
    shardings = parallel.shardings(jax.local_devices()[:1])
    like = recipes.abstract_state(config, (1, view.height, view.width, view.channels), shardings)
    with Checkpoints(run.path / names.CHECKPOINTS, read_only=True) as checkpoints:
        state = checkpoints.restore(like=like, step=run.step)
    found = {}
    for branch in ("dense", "sparse"):
        if branch in state.params["norms"]:
            params = trees.combine(state.params["weights"], state.params["norms"][branch])
            variables = {"params": params, "batch_stats": state.stats[branch]}
            found[branch] = {name: np.asarray(x) for name, x in trees.named(variables).items()}
    head, features = config.projector, run.encoder.features
    fits = head.layers in (2, 3) and head.hidden == features and head.hidden_norm and head.last == "norm"
    mean, std = (np.broadcast_to(x, view.channels) for x in (run.encoder.mean, run.encoder.std))
    tensors = interop.training_tensors(
        recipes.encoder(run.encoder.model), found, mean=tuple(mean), std=tuple(std), with_projector=fits
    )
    interop.write(directory / "model.safetensors", tensors, _about(run))
    return Usage(run.encoder, to, 0, projector=fits)


def _onnx(run: Run, directory: pathlib.Path, to: str, classes: int) -> Usage:
    encoder, view = recipes.encoder(run.encoder.model), run.encoder.view
    made = onnx.converted(encoder, run.variables, (view.height, view.width, view.channels))
    files.write(directory / "model.onnx", made)
    return Usage(run.encoder, to, 0)


def _about(run: Run) -> dict[str, str]:
    """For the header of a safetensors file."""
    return {"made_by": "sdclr_jax", "encoder": json.dumps(run.encoder.model), "step": str(run.step)}


def _of_run(run: Run) -> dict[str, Any]:
    """What a card says of a run's scores, images and versions, as far as the run says it.

    Raises:
        UserError: a file that says it is damaged.
    """
    try:
        results = records.read(Results, run.path / names.RESULTS)
    except FileNotFoundError:
        results = None
    versions = run.path / names.VERSIONS
    return {
        "results": results if results and results.run.step == run.step else None,
        "trained_on": folder.trained_on(run.path),
        "versions": records.load_object(versions, "put it back from a copy, or delete it") if versions.exists() else {},
    }


def _card(run: Run, usage: Usage, data_license: str, of_run: dict[str, Any]) -> str:
    method = run.config.get("method", "")
    imported = method == recipes.IMPORTED
    trained = "weights of another program" if imported else f"{method} on {run.config.data.name}"
    return card(
        title=f"{run.encoder.model['name']}, {trained}",
        encoder=run.encoder,
        config=recipes.fields(run.config),
        step=run.step,
        **of_run,
        parameters=sum(x.size for x in jax.tree.leaves(run.variables["params"])),
        usage=usage.text(),
        imported=imported,
        data_license=data_license,
        library="timm" if usage.to == "hub-folder" and usage.of_timm() else "",
    )
