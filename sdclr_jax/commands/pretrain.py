"""`sdclr pretrain`: train a method, or resume a run that was stopped."""

from sdclr_jax import processes
from sdclr_jax.api import pretrain
from sdclr_jax.commands import flags
from sdclr_jax.files import expanded

USAGE = """sdclr pretrain --config=NAME[:METHOD] --workdir=DIR [--config.FIELD=VALUE ...]

Pretrains and writes everything about the run to DIR. The same command again goes on where the run stopped: Ctrl-C or
SIGTERM lets it save first.

  --config=NAME:METHOD      such as digits_lt:sdclr; `sdclr config digits_lt:sdclr` prints its fields
  --config=FILE.py:METHOD   a config file of your own
  --config.FIELD=VALUE      overrides a field, such as --config.prune.rate=0.7
  --workdir=DIR             the run's folder; gs://BUCKET/FOLDER is one in a bucket
  --data_dir=DIR            prepared data sets; default $SDCLR_DATA or ~/.cache/sdclr_jax/data
  --distributed             join the processes of a cluster first (TPU pod, Slurm, MPI); without one, train alone
  --noprogress              no progress bar"""


def main(argv: list[str]) -> None:
    if flags.is_distributed(argv):
        processes.join()
    with processes.telling():  # what is wrong with one command line is told to processes that wait for this one
        args = flags.pretrain(argv, USAGE)
    pretrain.train(args.config, expanded(args.workdir), args.data_dir, progress=args.progress)
