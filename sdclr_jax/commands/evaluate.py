"""`sdclr evaluate`: probe the frozen dense encoder of runs, and print the scores."""

import pathlib
import sys

from ml_collections import ConfigDict

from sdclr_jax import processes, recipes
from sdclr_jax.api import evaluate
from sdclr_jax.commands import flags
from sdclr_jax.commands.parser import DATA_DIR
from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import protocols
from sdclr_jax.files import expanded
from sdclr_jax.records import Results
from sdclr_jax.run import folder

_WIDTH = max(map(len, protocols.PROTOCOLS))
_PROTOCOLS = "\n".join(f"    {name:{_WIDTH}}  {protocol.says}" for name, protocol in protocols.PROTOCOLS.items())
_DEFAULT = ", ".join(recipes.DECLARED["evaluate.protocols"].default)
USAGE = f"""sdclr evaluate DIR [DIR ...] [--config.FIELD=VALUE ...]

Probes the frozen dense encoder of each run on the test images and writes DIR/results.json: by protocol the score per
class, All, Many / Medium / Few, and Std between those. For multi-label data it reports average precision per attribute.
What earlier evaluations of the same encoder on the same data found under other protocols stays there.

  --config.evaluate.protocols=NAMES   which protocols, such as linear_full,ts_knn_10; default, unless the run's
                                      config has others: {_DEFAULT}
{_PROTOCOLS}

  --config.evaluate.FIELD=VALUE       overrides another setting, such as --config.evaluate.knn_k=50
  --config.data.FIELD=VALUE           where the images are now, if they have moved: data.name=folder:PHOTOS, data.root,
                                      data.manifest or data.lists; or data.workers. The command checks that the images
                                      trained on are the same, and saves the new place for the next command
  --data_dir=DIR                      {DATA_DIR}
  --distributed                       join the processes of a cluster first (TPU pod, Slurm, MPI), which extract
                                      features together; without one, work alone

Also DIR/embedding.json, a map of the test images' features (t-SNE) for reports: --config.evaluate.map_images=0 makes
none. DIR/features keeps the features and that map for the next evaluation. You may delete it; they are then computed
again."""


def main(argv: list[str]) -> None:
    with flags.joined(argv):
        jobs = _jobs(argv)
    for directory, config, data_dir in jobs:
        results = evaluate.evaluate_run(config, directory, data_dir)
        if processes.is_main():
            _show(results, directory, config)


def _jobs(argv: list[str]) -> list[tuple[pathlib.Path, ConfigDict, str | None]]:
    """Run, config and folder of prepared data sets."""
    flags.show_help(argv, USAGE)
    directories = [expanded(arg) for arg in argv if not arg.startswith("-")]
    options = [arg for arg in argv if arg.startswith("-")]
    if not directories:
        raise UserError("give the folder of a run, as in: sdclr evaluate runs/sdclr")
    jobs = []
    for directory in directories:
        args = flags.evaluate(options, recipes.read(directory))
        recipes.check(args.config)
        folder.check_writable(directory)
        jobs.append((directory, args.config, args.data_dir))
    return jobs


def _show(results: Results, directory: pathlib.Path, config: ConfigDict) -> None:
    if warning := (results.data.provenance or {}).get("warning"):
        print(f"{directory}  warning: {config.data.name} was {warning}", file=sys.stderr)
    for name in (name for name in results.protocols if name in config.evaluate.protocols):
        groups = "  ".join(f"{k} {_percent(share)}" for k, share in results.protocols[name].summary.items())
        print(f"{directory}  {name:16s} {groups}", flush=True)


def _percent(share: float | None) -> str:
    return "    -" if share is None else f"{100 * share:5.2f}"
