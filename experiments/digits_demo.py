"""SimCLR and SDCLR side by side on long-tailed digits, several seeds, then the report: `make demo`.

    python experiments/digits_demo.py [--out=runs/digits_demo] [--seeds=3] [--config.FIELD=VALUE ...]

Two runs at a time, one a core. Each seed draws its own class order, long tail and weights, the same ones for both
methods. Started again, it goes on where it stopped. Fields given are set in every run.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

from tqdm import tqdm

ROOT = pathlib.Path(__file__).parents[1]
SDCLR = [sys.executable, "-m", "sdclr_jax.commands.main"]
METHODS = ("simclr", "sdclr")
AT_A_TIME = 2
NOTE = """\
Both methods have the same encoder, the same three-layer head, the same images and the same number of steps; only the \
second branch differs. What this small run can show: that the whole chain works, from unlabelled long-tailed images to \
scores for frequent and rare classes, and roughly how much scores vary from seed to seed. What it cannot show: whether \
SDCLR is better than SimCLR. There are 369 training images of 8 x 8 pixels, about 45 test images a class, so that one \
test image is 2 points of its class; and the authors' gains are for ResNet-18 trained 2,000 epochs on 32 x 32 \
photographs. A difference within the spread is no difference."""


class Job:
    """One run: pretraining, then evaluation, in processes of its own, with a bar that follows its metrics."""

    def __init__(self, method: str, seed: int, out: pathlib.Path, fields: list[str], place: int):
        self.directory = out / f"{method}-{seed}"
        self._log = out / f"{method}-{seed}.log"
        config = f"--config={ROOT / 'configs' / 'digits_lt.py'}:{method}"
        seeds = [f"--config.seed={seed}", f"--config.data.split={seed}"]
        self._commands = [
            [*SDCLR, "pretrain", config, f"--workdir={self.directory}", *seeds, *fields, "--noprogress"],
            [*SDCLR, "evaluate", str(self.directory)],
        ]
        self._bar = tqdm(
            total=None, desc=f"{method:7s} seed {seed}", position=place, unit="epoch", bar_format="{desc}: starting",
            mininterval=0.5 if sys.stderr.isatty() else 15,
        )  # fmt: skip
        self._process = None
        self._next()

    def _next(self) -> None:
        with self._log.open("a") as log:
            # Ctrl-C is to reach this program alone, which then lets the runs save.
            self._process = subprocess.Popen(
                self._commands.pop(0), stdout=log, stderr=log, cwd=ROOT, start_new_session=True
            )

    def running(self) -> bool:
        """Follow the run; whether there is more to come."""
        self._show()
        status = self._process.poll()
        if status is None:
            return True
        if status:
            self._bar.close()
            sys.exit(f"{' '.join(self._process.args)} failed; {self._log} ends:\n{self._log.read_text()[-2000:]}")
        if self._commands:
            self._next()
            return True
        self._bar.close()
        return False

    def stop(self) -> None:
        """Ask the run to save and end."""
        self._bar.close()
        self._process.terminate()

    def wait(self) -> None:
        self._process.wait()

    def _show(self) -> None:
        try:
            config = json.loads((self.directory / "config.json").read_text())
            line = json.loads((self.directory / "metrics.jsonl").read_text().splitlines()[-1])
        except (OSError, ValueError, IndexError):
            return
        if self._bar.total is None:
            self._bar.total = config["epochs"]
            self._bar.bar_format = "{desc}: {percentage:3.0f}%|{bar:20}| {elapsed}<{remaining}{postfix}"
        self._bar.set_postfix_str(
            f"loss {line['loss']:.3f}, {line['images_per_second']:.0f} images/s"
            + ("" if len(self._commands) else ", evaluating"),
            refresh=False,
        )
        self._bar.update(line["epoch"] - self._bar.n)
        self._bar.refresh()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/digits_demo"))
    parser.add_argument("--seeds", type=int, default=3)
    options, fields = parser.parse_known_args()
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()

    waiting = [(method, seed) for seed in range(options.seeds) for method in METHODS]
    running: dict[int, Job] = {}
    try:
        while waiting or running:
            for place in range(AT_A_TIME):
                if place not in running and waiting:
                    running[place] = Job(*waiting.pop(0), out, fields, place)
            running = {place: job for place, job in running.items() if job.running()}
            time.sleep(0.2)
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on from here")
    finally:
        for job in running.values():
            job.stop()
        for job in running.values():
            job.wait()

    directories = [str(out / f"{method}-{seed}") for seed in range(options.seeds) for method in METHODS]
    report = [*SDCLR, "report", *directories, f"--output={out / 'report.html'}", f"--note={NOTE}"]
    print(flush=True)
    subprocess.run(report, check=True, cwd=ROOT)
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes on {os.cpu_count()} cores. Open {out / 'report.html'}")


if __name__ == "__main__":
    main()
