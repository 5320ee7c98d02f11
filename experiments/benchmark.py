"""Our step and epoch against PyTorch's, in one run, in turns: SDCLR, by default ResNet-18 on 32 x 32 images.

    pip install torch torchvision
    python experiments/benchmark.py [--batch_size=64] [--rounds=5] [--steps=3] [--forms="ours;published;..."]
        [--encoder=resnet50 --size=224] [--devices=1,2,4,8] [--stable_pretraining=FOLDER] [--out=FOLDER]

Each form has a process of its own on the same device; they take turns, so that what else the machine does falls on all
of them. `step` is the bare step on ready views (ours makes its views in the step, which counts against it); `epoch` is
steps with their data: images that lie on the device for us and for "on device", Pillow in a DataLoader for "loader".

Prints a line of JSON for each form, with the ratios of its images a second to `published` and `loader`, and one of what
our compiled step costs against the least that it could: 2 forwards and 2 backwards of the bare network. With --out it
writes all of it to `table.json`, and tables to `README.md`.

--devices: our step on so many devices, with --batch_size images on each. CPU devices share the cores, so on CPUs it
shows nothing but that it runs.
--stable_pretraining: a clone of https://github.com/galilai-group/stable-pretraining, installed with its JAX extra. Its
own `benchmarks/jax_vs_torch_throughput.py` then runs before and after the rounds. It measures another program: SimCLR
with another stem and head, on ready views, with AdamW.
"""

import argparse
import json
import os
import pathlib
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).parent))

# form -> (kind, arguments of pytorch_peer.Trainer, or fields of our config)
OURS = {
    "ours": ("step", {}),
    "ours, bfloat16": ("step", {"model.dtype": "bfloat16"}),
    "ours, epoch": ("epoch", {}),
    "ours, bfloat16, epoch": ("epoch", {"model.dtype": "bfloat16"}),
    "ours, 8 steps a dispatch, epoch": ("epoch", {"steps_per_dispatch": 8}),  # on CPUs it takes many minutes
}
THEIRS = {
    "published": ("step", {"form": "published"}),
    "joint": ("step", {"form": "joint"}),
    "joint, channels last": ("step", {"form": "joint", "channels_last": True}),
    "joint, bfloat16": ("step", {"form": "joint", "channels_last": True, "bfloat16": True}),
    "joint, compiled": ("step", {"form": "joint", "channels_last": True, "compiled": True}),
    "joint, bfloat16, compiled": (
        "step",
        {"form": "joint", "channels_last": True, "bfloat16": True, "compiled": True},
    ),
    "loader": ("epoch", {"form": "published"}),
    "on device": ("epoch", {"form": "joint", "channels_last": True}),
    "on device, bfloat16": ("epoch", {"form": "joint", "channels_last": True, "bfloat16": True}),
}
FORMS = OURS | THEIRS
DEFAULT = "ours;published;joint;joint, channels last;ours, epoch;loader;on device"
PEERS = {"step": "published", "epoch": "loader"}


def main() -> None:
    from jobs import on_disk

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=("resnet18", "resnet50"), default="resnet18")
    parser.add_argument("--size", type=int, default=32, help="side of the images; from 64 on, with the stem for photos")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="in a round; the median of rounds is told")
    parser.add_argument("--forms", default=DEFAULT, help="names divided by ';'")
    parser.add_argument("--devices", default="1", help="numbers of devices for our step, divided by ','")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of the DataLoader")
    parser.add_argument("--stable_pretraining", type=pathlib.Path, help="folder of its clone")
    parser.add_argument("--out", type=on_disk, help="folder for table.json and README.md")
    parser.add_argument("--note", default="", help="a sentence for README.md, such as what else the machine did")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=1, help=argparse.SUPPRESS)  # of devices
    options = parser.parse_args()
    if options.serve:
        return serve(options)
    names = options.forms.split(";")
    if unknown := set(names) - FORMS.keys():
        parser.error(f"there is no form {unknown.pop()!r}: forms are {'; '.join(FORMS)}")
    counts = [int(n) for n in options.devices.split(",") if n != "1"]
    with tempfile.TemporaryDirectory() as cache:
        rival = [stable_pretraining(options)] if options.stable_pretraining else []
        lines = measured(names, counts, options, pathlib.Path(cache))
        rival += [stable_pretraining(options)] if options.stable_pretraining else []
        costs = json.loads(Child("costs", options, environment={}).about)
    steps = {line["form"]: statistics.median(line["seconds_a_step"]) for line in lines}
    if "ours" in steps and options.size == 32:
        epoch = images_of_an_epoch() // options.batch_size * steps["ours"]
        costs["refresh_share_of_an_epoch"] = costs["refresh_seconds"] / epoch
    result = {"forms": lines, "costs": costs, "stable_pretraining": rival, "made_with": made_with()}
    for line in [*lines, costs, {"stable_pretraining": rival}, result["made_with"]]:
        print(json.dumps(line), flush=True)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "table.json").write_text(json.dumps(result, indent=1) + "\n")
        (options.out / "README.md").write_text(page(result, options))
    return None


class Child:
    """A form in a process of its own, once it has taken its first step."""

    def __init__(self, name: str, options, environment: dict[str, str], count: int = 1):
        before = time.perf_counter()
        command = [sys.executable, __file__, *sys.argv[1:], f"--serve={name}", f"--count={count}"]
        # They live at once: else the first one of JAX takes three quarters of a GPU's memory.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ | environment
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.about = self.process.stdout.readline()
        self.seconds_to_first_step = round(time.perf_counter() - before, 1)
        if not self.about:
            sys.exit(f"{name} has ended: see above")

    def round(self) -> list[float]:
        """Seconds and CPU seconds a step, of a few steps."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> dict[str, float]:
        self.process.stdin.close()
        last = self.process.stdout.readline()
        self.process.wait(60)
        return json.loads(last)


def measured(names: list[str], counts: list[int], options, cache: pathlib.Path) -> list[dict]:
    running, ready = {}, {}
    for name in names:  # one after the other: what they do once is timed, too
        cold, kept = {}, {}
        if name in OURS:  # the first process fills the cache of compiled programs that the second one reads
            kept = {"JAX_COMPILATION_CACHE_DIR": str(cache / name), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
            first = Child(name, options, kept)
            about = json.loads(first.about)
            cold = {
                "cold_seconds_to_first_step": first.seconds_to_first_step,
                "cold_cpu_seconds": about["cpu_seconds_to_first_step"],
            }
            first.end()
        running[name] = Child(name, options, kept)
        ready[name] = {"seconds_to_first_step": running[name].seconds_to_first_step} | cold
    for count in counts:
        name = f"ours, {count} devices"
        running[name] = Child("ours", options, {"JAX_NUM_CPU_DEVICES": str(count)}, count)
        ready[name] = {"seconds_to_first_step": running[name].seconds_to_first_step}
    rounds = {name: [] for name in running}
    for _ in range(options.rounds):
        for name, child in running.items():
            rounds[name].append(child.round())
    lines = []
    for name, child in running.items():
        times, cpu = (list(column) for column in zip(*rounds[name], strict=True))
        about = json.loads(child.about)
        kind, median = about["kind"], statistics.median(times)
        images = options.batch_size * about.get("devices", 1)
        line = {"form": name, "kind": kind, "images_per_second": round(images / median, 2), "seconds_a_step": times}
        line |= {"cpu_seconds_a_step": round(statistics.median(cpu), 3)}
        for peer in (PEERS[kind], "joint"):
            if peer in rounds and peer != name:
                ratios = [theirs[0] / ours for ours, theirs in zip(times, rounds[peer], strict=True)]
                line[f"times_{peer}"] = [round(f(ratios), 3) for f in (statistics.median, min, max)]
        if about.get("operations"):
            rate = about["operations"] / median
            line |= {"share_of_peak": about["peak"] and rate / about["peak"] / about["devices"]}
        lines.append(line | about | ready[name] | child.end())
    return lines


def stable_pretraining(options) -> str:
    """What its own script prints of its JAX backend."""
    script = options.stable_pretraining / "benchmarks" / "jax_vs_torch_throughput.py"
    command = [sys.executable, script, "--backend=jax", "--model=resnet18", f"--batch-size={options.batch_size}"]
    command.append(f"--img-size={options.size}")
    environment = os.environ | {"PYTHONPATH": str(options.stable_pretraining)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    found = re.search(r".* img/s .*", ended.stdout)
    if not found:
        sys.exit(f"{script} printed no images a second:\n{ended.stdout}{ended.stderr}")
    return found[0].strip()


def images_of_an_epoch() -> int:
    """Of CIFAR-10-LT."""
    from sdclr_jax.reports import published

    return published.DATA_SETS["cifar10"].images


def made_with() -> dict[str, str]:
    """Asked for in a process of its own: JAX takes a part of a GPU's memory wherever it looks at the devices."""
    code = "import json, sdclr_jax; sdclr_jax.config; from sdclr_jax.run import versions"
    code += "; print(json.dumps(versions.current()))"
    root = pathlib.Path(__file__).parents[1]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    made = json.loads(found.stdout)
    made = {name: made[name] for name in ("commit", "jax", "XLA_FLAGS", "devices", "hardware")}
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
        made["nvidia-smi"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return made


def serve(options) -> None:
    """Say what this is after its first step; take `steps` steps whenever a line comes, and print the seconds and the
    CPU seconds of one; at last, the most memory that it took."""
    import numpy as np

    if options.serve == "costs":
        print(json.dumps(costs(options)), flush=True)
        return
    kind, arguments = FORMS[options.serve]
    size = options.batch_size * options.count
    images = np.random.default_rng(0).integers(0, 256, (size * 8, options.size, options.size, 3), np.uint8)
    make = ours if options.serve in OURS else theirs
    take, about, peak_memory = make(kind, images, options, arguments)
    take(1)
    print(json.dumps({"kind": kind, "cpu_seconds_to_first_step": round(cpu_seconds(), 1)} | about()), flush=True)
    for _ in sys.stdin:
        before, cpu = time.perf_counter(), cpu_seconds()
        taken = take(options.steps)
        print([(time.perf_counter() - before) / taken, (cpu_seconds() - cpu) / taken], flush=True)
    print(json.dumps(peak_memory()), flush=True)


def model(options) -> dict[str, str]:
    return {"name": options.encoder, "stem": "cifar" if options.size < 64 else "imagenet"}


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def host_memory() -> dict[str, float]:
    return {"peak_host_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def ours(kind, images, options, fields):
    import sdclr_jax  # first: it sets XLA's flags

    shape = {"views.size": options.size} | {f"model.{name}": value for name, value in model(options).items()}
    batch_size = options.batch_size * options.count
    config = sdclr_jax.config("cifar10_lt:sdclr", {"batch_size": batch_size, **shape, **fields})
    import jax
    import numpy as np

    from sdclr_jax import parallel, recipes
    from sdclr_jax.run import profile

    devices = jax.devices()[: options.count]
    shardings = parallel.shardings(devices)
    batches = recipes.batches(config, images, shardings)
    method = recipes.method(config, batches.steps_per_epoch, shardings.replicated)
    init = jax.jit(method.init, out_shardings=shardings.replicated)
    held = {"state": init(np.uint32(0), np.zeros((1, *images.shape[1:]), np.float32)), "at": 0}
    batch = next(batches.from_step(0))
    if kind == "epoch":
        steps = method.train(held["state"], batches.from_step(0), until=2**30)

        def take(count):
            begun = held["at"]
            while held["at"] < begun + count:
                step = next(steps)
                held["at"] = step.number
            jax.block_until_ready(step.scalars)
            return held["at"] - begun
    else:
        held["state"] = jax.jit(method.refresh, out_shardings=shardings.replicated)(held["state"])

        def take(count):
            for _ in range(count):
                held["state"], scalars = method.jitted_step(held["state"], batch)
            jax.block_until_ready(scalars)
            return count

    def about():
        operations = None
        if kind == "step":
            operations = method.jitted_step.lower(held["state"], batch).cost_analysis()["flops"]
        peak = profile.peak_of(devices[0].device_kind)
        return {
            "jax": jax.__version__,
            "device": str(devices[0].device_kind),
            "devices": len(devices),
            "operations": operations,
            "peak": peak,
        }

    def peak_memory():
        of_device = (devices[0].memory_stats() or {}).get("peak_bytes_in_use")
        return host_memory() | ({"peak_device_mb": of_device >> 20} if of_device else {})

    return take, about, peak_memory


def theirs(kind, images, options, arguments):
    import pytorch_peer
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    large = model(options)["stem"] == "imagenet"
    trainer = pytorch_peer.Trainer(device=device, encoder=options.encoder, large=large, **arguments)
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
        return count

    def peak_memory():
        on_gpu = {"peak_device_mb": torch.cuda.max_memory_allocated() >> 20} if device.type == "cuda" else {}
        return host_memory() | on_gpu

    return (
        take,
        lambda: {"torch": torch.__version__, "device": str(device), "threads": torch.get_num_threads()},
        peak_memory,
    )


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


def costs(options) -> dict[str, float]:
    """What our compiled step costs, and twice the bare network's forward and backward; a refresh of the mask."""
    import flops
    import jax
    import numpy as np

    method, programs = flops.lowered(options.batch_size, options.size, **model(options))
    compiled = {name: program.compile() for name, program in programs.items()}
    found = {}
    for ours, of_xla in (("operations", "flops"), ("bytes", "bytes accessed")):
        step, bare = (compiled[name].cost_analysis()[of_xla] for name in ("step", "bare"))
        found |= {ours: step, f"{ours}_of_minimum": 2 * bare}
    step, bare = (compiled[name].memory_analysis() for name in ("step", "bare"))
    found["memory_mb"] = (step.argument_size_in_bytes + step.temp_size_in_bytes) >> 20
    found["memory_mb_of_minimum"] = (step.argument_size_in_bytes + 2 * bare.temp_size_in_bytes) >> 20
    refresh, times = jax.jit(method.refresh), []
    state = jax.jit(method.init)(np.uint32(0), np.zeros((1, options.size, options.size, 3), np.float32))
    for _ in range(6):
        before = time.perf_counter()
        jax.block_until_ready(refresh(state))
        times.append(time.perf_counter() - before)
    return found | {"refresh_seconds": statistics.median(times[1:])}


def page(result: dict, options) -> str:
    """README.md: the tables, and what made them."""

    def ratio(line, peer):
        return "{:.2f} ({:.2f} to {:.2f})".format(*line[f"times_{peer}"]) if f"times_{peer}" in line else ""

    def shown(line, name, form="{:g}"):
        return form.format(line[name]) if line.get(name) is not None else ""

    heads = ["form", "images a second", "times published or loader", "times joint", "CPU seconds a step"]
    heads += ["share of the peak", "peak memory, MB", "seconds to the first step", "of it cold"]
    rows = []
    for line in result["forms"]:
        memory = shown(line, "peak_device_mb") or shown(line, "peak_host_mb")
        rows.append(
            [line["form"], shown(line, "images_per_second"), ratio(line, PEERS[line["kind"]]), ratio(line, "joint")]
            + [shown(line, "cpu_seconds_a_step"), shown(line, "share_of_peak", "{:.1%}"), memory]
            + [shown(line, "seconds_to_first_step"), shown(line, "cold_seconds_to_first_step")]
        )
    table = "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows])
    costs, made = result["costs"], result["made_with"]
    parts = {"operations": 1e9, "bytes": 1e9, "memory_mb": 1}
    units = {"operations": "GFLOP", "bytes": "GB read and written", "memory_mb": "MB of memory"}
    against = "\n".join(
        f"| {units[part]} | {costs[part] / scale:.1f} | {costs[f'{part}_of_minimum'] / scale:.1f} "
        f"| {costs[part] / costs[f'{part}_of_minimum']:.4f} |"
        for part, scale in parts.items()
    )
    arguments = [x for x in sys.argv[1:] if not x.startswith(("--out", "--note"))]
    command = " ".join(["python experiments/benchmark.py", *(f"'{x}'" if " " in x else x for x in arguments)])
    versions = ", ".join(f"{name} {value}" for name, value in made.items() if value)
    torch = next((f", torch {line['torch']}" for line in result["forms"] if "torch" in line), "")
    share = costs.get("refresh_share_of_an_epoch")
    refresh = f"A refresh of the mask takes {costs['refresh_seconds']:.3f} s"
    refresh += f", {share:.2%} of an epoch of CIFAR-10-LT, {images_of_an_epoch():,} images." if share else "."
    rival = "".join(f"\n    {line}" for line in result["stable_pretraining"])
    return (
        f"""# Our step and epoch beside PyTorch's

SDCLR, {options.encoder}, {options.size} x {options.size} images, batch {options.batch_size}. Medians of
{options.rounds} rounds of {options.steps} steps, in which the forms take turns. Ratios are of each round:
median (least to most). What the forms are: [benchmark.py](../../benchmark.py).

{table}

Our compiled step, by XLA's count, beside the least: 2 forwards and 2 backwards of the bare network (memory: the
state, and twice what one of them takes).

| | step | least | ratio |
|---|---|---|---|
{against}

{refresh}
{f"{chr(10)}stable-pretraining's own script, before and after the rounds:{chr(10)}{rival}{chr(10)}" if rival else ""}
`{command}`: {versions}{torch}. {options.note}
""".rstrip()
        + "\n"
    )


if __name__ == "__main__":
    main()
