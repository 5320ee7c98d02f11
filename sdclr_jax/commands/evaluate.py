"""`sdclr evaluate`: probe the frozen dense encoder of runs, and print the scores."""

import sys

from sdclr_jax import recipes
from sdclr_jax.api import evaluate
from sdclr_jax.commands import flags
from sdclr_jax.errors import UserError
from sdclr_jax.evaluation import protocols
from sdclr_jax.files import expanded
from sdclr_jax.run import folder

_PROTOCOLS = "\n".join(f"    {name:16s} {protocol.says}" for name, protocol in protocols.PROTOCOLS.items())
USAGE = f"""sdclr evaluate DIR [DIR ...] [--config.evaluate.FIELD=VALUE ...]

Probes the frozen dense encoder of each run on the test images and writes DIR/results.json: by protocol the score per
class, All, Many / Medium / Few, and Std between those. Of images with attributes it writes the average precision of
each. What earlier evaluations of the same encoder on the same data found under other protocols stays there.

  --config.evaluate.protocols=NAMES   which protocols, such as "('linear_full', 'ts_knn_10')"; default are the first
                                      four:
{_PROTOCOLS}

  --config.evaluate.FIELD=VALUE       overrides another setting, such as --config.evaluate.knn_k=50
  --data_dir=DIR                      prepared data sets; default $SDCLR_DATA or ~/.cache/sdclr_jax/data

Also DIR/embedding.json, a map of the test images' features (t-SNE) for reports: --config.evaluate.map_images=0 makes
none. DIR/features keeps the features and that map for the next evaluation; deleting it costs their time again."""


def main(argv: list[str]) -> None:
    directories = [expanded(arg) for arg in argv if not arg.startswith("-")]
    options = [arg for arg in argv if arg.startswith("-")]
    if not directories:
        flags.show_help(options, USAGE)
        raise UserError("give the folder of a run, as in: sdclr evaluate runs/sdclr")
    jobs = []
    for directory in directories:
        args = flags.evaluate(options, USAGE, recipes.read(directory))
        recipes.check(args.config)
        folder.check_writable(directory)
        jobs.append((directory, args.config, args.data_dir))
    for directory, config, data_dir in jobs:
        results = evaluate.evaluate_run(config, directory, data_dir)
        if warning := (results.data.provenance or {}).get("warning"):
            print(f"{directory}  warning: {config.data.name} was {warning}", file=sys.stderr)
        for name in (name for name in results.protocols if name in config.evaluate.protocols):
            groups = "  ".join(f"{k} {_percent(share)}" for k, share in results.protocols[name].summary.items())
            print(f"{directory}  {name:16s} {groups}", flush=True)


def _percent(share: float | None) -> str:
    return "    -" if share is None else f"{100 * share:5.2f}"
