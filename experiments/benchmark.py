"""Our step and epoch against PyTorch's, in one run, in turns: SDCLR, ResNet-18, 32 x 32 images.

    pip install torch torchvision
    python experiments/benchmark.py [--batch_size=64] [--rounds=5] [--steps=3] [--forms=ours,published,...]

Each form has a process of its own on the same device; they take turns, so that what else the machine does falls on all
of them. `step` is the bare step on ready views (ours makes its views in the step, which counts against it); `epoch` is
steps with their data: images that lie on the device for us and for "on device", Pillow in a DataLoader for "loader".
Prints a line of JSON for each form, and the ratios of its images a second to `published` and `loader`.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).parent))

# form -> (kind, arguments of pytorch_peer.Trainer; None is ours)
FORMS = {
    "ours": ("step", None),
    "ours, bfloat16": ("step", None),
    "published": ("step", {"form": "published"}),
    "joint": ("step", {"form": "joint"}),
    "joint, channels last": ("step", {"form": "joint", "channels_last": True}),
    "joint, bfloat16": ("step", {"form": "joint", "channels_last": True, "bfloat16": True}),
    "joint, compiled": ("step", {"form": "joint", "channels_last": True, "compiled": True}),
    "ours, epoch": ("epoch", None),
    "loader": ("epoch", {"form": "published"}),
    "on device": ("epoch", {"form": "joint", "channels_last": True}),
}
DEFAULT = "ours;published;joint;joint, channels last;ours, epoch;loader;on device"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="in a round; the median of rounds is told")
    parser.add_argument("--forms", default=DEFAULT, help="names divided by ';'")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of the DataLoader")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options)
    names = options.forms.split(";")
    if unknown := set(names) - FORMS.keys():
        parser.error(f"there is no form {unknown.pop()!r}: forms are {'; '.join(FORMS)}")
    running, ready = {}, {}
    for name in names:  # one after the other: what they do once is timed, too
        before = time.perf_counter()
        command = [sys.executable, __file__, *sys.argv[1:], f"--serve={name}"]
        running[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        about = running[name].stdout.readline()
        if not about:
            sys.exit(f"{name} has ended: see above")
        ready[name] = {"seconds_to_first_step": round(time.perf_counter() - before, 1)} | json.loads(about)
    times = {name: [] for name in running}
    for _ in range(options.rounds):
        for name, process in running.items():
            process.stdin.write("\n")
            process.stdin.flush()
            times[name].append(float(process.stdout.readline()))
    rates = {}
    for name, process in running.items():
        process.stdin.close()
        process.wait(60)
        rates[name] = options.batch_size / statistics.median(times[name])
    for name in names:
        kind = FORMS[name][0]
        line = {"form": name, "kind": kind, "images_per_second": round(rates[name], 2), "seconds_a_step": times[name]}
        peer = "published" if kind == "step" else "loader"
        if peer in rates:
            by_round = [theirs / ours for ours, theirs in zip(times[name], times[peer], strict=True)]
            line |= {f"times_{peer}": round(statistics.median(by_round), 3), "from_to": [min(by_round), max(by_round)]}
        print(json.dumps(line | ready[name]), flush=True)
    return None


def serve(options) -> None:
    """Take `steps` steps whenever a line comes, and print the seconds of one."""
    import numpy as np

    kind, arguments = FORMS[options.serve]
    images = np.random.default_rng(0).integers(0, 256, (options.batch_size * 8, 32, 32, 3), np.uint8)
    make = ours if arguments is None else theirs
    take, about = make(kind, images, options, arguments)
    take(1)
    print(json.dumps(about), flush=True)
    take(options.steps)  # warm
    for _ in sys.stdin:
        before = time.perf_counter()
        take(options.steps)
        print((time.perf_counter() - before) / options.steps, flush=True)


def ours(kind, images, options, _):
    import jax
    import numpy as np

    import sdclr_jax
    from sdclr_jax import parallel, recipes

    dtype = "bfloat16" if "bfloat16" in options.serve else "float32"
    config = sdclr_jax.config("cifar10_lt:sdclr", {"batch_size": options.batch_size, "model.dtype": dtype})
    shardings = parallel.shardings(jax.devices()[:1])
    batches = recipes.batches(config, images, shardings)
    method = recipes.method(config, batches.steps_per_epoch, shardings.replicated)
    state = jax.jit(method.init)(np.uint32(0), np.zeros((1, 32, 32, 3), np.float32))
    if kind == "epoch":
        steps = method.train(state, batches.from_step(0), until=2**30)
        take = lambda count: jax.block_until_ready([next(steps).scalars for _ in range(count)])  # noqa: E731
    else:
        held = {"state": jax.jit(method.refresh)(state)}
        batch = next(batches.from_step(0))

        def take(count):
            for _ in range(count):
                held["state"], scalars = method.jitted_step(held["state"], batch)
            jax.block_until_ready(scalars)

    return take, {"jax": jax.__version__, "device": str(jax.devices()[0].device_kind), "dtype": dtype}


def theirs(kind, images, options, arguments):
    import pytorch_peer
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = pytorch_peer.Trainer(device=device, **arguments)
    resident = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
    if kind == "step":
        views = pytorch_peer.on_device(resident[: options.batch_size])
        batches = iter(lambda: views, None)
    elif options.serve == "loader":
        batches = loaded(pytorch_peer.loader(images, options.batch_size, options.workers), trainer)
    else:
        batches = chosen(resident, options.batch_size, trainer, pytorch_peer.on_device)

    def take(count):
        for _ in range(count):
            trainer.step(*(view.to(device, non_blocking=True) for view in next(batches)))
        if device.type == "cuda":
            torch.cuda.synchronize()

    return take, {"torch": torch.__version__, "device": str(device), "threads": torch.get_num_threads()}


def loaded(loader, trainer):
    while True:
        trainer.network.refresh(trainer.rate)
        yield from loader


def chosen(resident, batch_size, trainer, views_of):
    import torch

    while True:
        trainer.network.refresh(trainer.rate)
        order = torch.randperm(len(resident), device=resident.device)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            yield views_of(resident[order[start : start + batch_size]])


if __name__ == "__main__":
    main()
