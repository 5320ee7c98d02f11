"""`sdclr pretrain`: train a method, or resume a run that was stopped."""

from sdclr_jax import processes, stops
from sdclr_jax.api import determinism, pretrain
from sdclr_jax.commands import flags
from sdclr_jax.commands.parser import DATA_DIR
from sdclr_jax.files import expanded

USAGE = f"""sdclr pretrain --config=NAME[:METHOD] --workdir=DIR [--config.FIELD=VALUE ...]

Pretrains and writes everything about the run to DIR. Ctrl-C or SIGTERM saves and stops. Run it again to resume.

  --config=NAME:METHOD      such as digits_lt:sdclr; `sdclr config digits_lt:sdclr` prints its fields
  --config=FILE.py:METHOD   a config file of your own
  --config.FIELD=VALUE      overrides a field, such as --config.prune.rate=0.7
  --workdir=DIR             the run's folder; gs://BUCKET/FOLDER is one in a bucket
  --data_dir=DIR            {DATA_DIR}
  --distributed             join the processes of a cluster first (TPU pod, Slurm, MPI); without one, train alone
  --noprogress              no progress bar
  --profile=STEPS           trace this number of steps into DIR/profile, and print what they cost
  --check-determinism=N     train N steps twice from the same state, compare images, scalars and all arrays bit by bit,
                            say what differs, and write nothing; --workdir is not needed

{flags.KNOWN}"""


def main(argv: list[str]) -> None:
    with stops.heeded():
        _main(argv)


def _main(argv: list[str]) -> None:
    with flags.joined(argv):
        args = flags.pretrain(argv, USAGE)
    if (steps := args["check-determinism"].value) is not None:
        said = determinism.check_determinism(args.config, steps, args.data_dir)
        if processes.is_main():
            print(said)
        return
    with processes.stopping_before_the_first_step():
        directory = expanded(args.workdir)
        state = pretrain.train(
            args.config, directory, args.data_dir, progress=args.progress, profiled_steps=args.profile
        )
    if processes.is_main():
        print(
            f"Wrote {directory}: all {int(state.step):,} steps are done; "
            f"next: sdclr evaluate {directory} (needs labels), or sdclr exemplars {directory}"
        )
