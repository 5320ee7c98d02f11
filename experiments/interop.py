"""Weights in and out against the real libraries: torchvision, timm, a model of the SDCLR authors' layout, onnxruntime.

    pip install -e ".[interop-test,onnx]"
    python experiments/interop.py    # into experiments/results/interop; some 20 minutes on 2 cores
    python experiments/interop.py --golden    # writes tests/golden/torch_names.txt and torch_features.json again

Each model has random weights, and its norms random scales and statistics, so that a trap shows. It is imported as a run
(torch -> JAX), and the run is exported (JAX -> torch): weights must be equal to the bit, features close. The 32
photographs are crops of the two that come with scikit-learn.
"""

import argparse
import contextlib
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from functools import partial

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_images

import sdclr_jax

ROOT = pathlib.Path(__file__).parents[1]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Views of 128 pixels where the size is free: 32 photographs through three models on a CPU.
MODELS = {
    ("torchvision", "resnet18"): (torchvision.models.resnet18, 128),
    ("torchvision", "resnet34"): (torchvision.models.resnet34, 128),
    ("torchvision", "resnet50"): (torchvision.models.resnet50, 128),
    ("torchvision", "convnext_tiny"): (torchvision.models.convnext_tiny, 128),
    ("timm", "convnext_tiny"): (lambda: timm.create_model("convnext_tiny"), 128),
    ("timm", "vit_tiny"): (lambda: timm.create_model("vit_tiny_patch16_224"), 224),
    ("timm", "vit_small"): (lambda: timm.create_model("vit_small_patch16_224"), 224),
}
TIMM = {"vit_tiny": "vit_tiny_patch16_224", "vit_small": "vit_small_patch16_224"}


def photographs(count: int = 32, side: int = 224) -> np.ndarray:
    """uint8 [N, side, side, 3], crops at fixed random places and scales."""
    pictures, random, found = load_sample_images().images, np.random.default_rng(0), []
    for i in range(count):
        picture = Image.fromarray(pictures[i % len(pictures)])
        edge = int(random.integers(side // 2, min(picture.size)))
        x, y = (int(random.integers(0, length - edge + 1)) for length in picture.size)
        found.append(np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, (x, y, x + edge, y + edge))))
    return np.stack(found)


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights of the scale that keeps activations alive; scales and statistics of norms that are not 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            noise = torch.randn(x.shape, generator=generator)
            if name.endswith("running_var"):
                x.copy_(0.5 + noise.abs())
            elif x.ndim == 1 and name.endswith(("weight", "gamma")) or name.endswith("layer_scale"):
                x.copy_(0.5 + 0.1 * noise if "gamma" in name or "layer_scale" in name else 1 + 0.2 * noise)
            elif x.ndim > 1:
                x.copy_(noise / np.sqrt(np.prod(x.shape[1:])) if x.ndim != 3 else 0.1 * noise)
            else:
                x.copy_(0.1 * noise)
    return model.eval()


def features_of(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """Of a model without its classifier, on uint8 images."""
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(
        STD
    )[:, None, None]
    with torch.no_grad():
        return torch.cat([model(part) for part in x.split(8)]).numpy()


def without_classifier(library: str, model: torch.nn.Module) -> torch.nn.Module:
    if library == "timm":
        model.reset_classifier(0)
    elif hasattr(model, "fc"):
        model.fc = torch.nn.Identity()
    else:
        model.classifier[2] = torch.nn.Identity()
    return model.eval()


def off(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def round_trip(library: str, name: str, folder: pathlib.Path) -> dict:
    """One model in and out."""
    make, side = MODELS[library, name]
    images = photographs(side=side)
    model = randomised(make())
    before = {k: x.clone() for k, x in model.state_dict().items()}
    save_file(before, folder / "in.safetensors")
    expected = features_of(without_classifier(library, model), images)
    seen = {"views.size": side, "evaluate.crop": side, "evaluate.resize": side}
    run = sdclr_jax.import_weights(folder / "in.safetensors", folder / "run", fields=seen)
    found = run.encode(images, batch_size=8)
    written = run.export(library, folder / "out") / "model.safetensors"
    tensors = load_file(written)
    kept = [k for k in tensors if not torch.equal(tensors[k], before[k])]
    classifier = {"fc", "head", "head.fc", "classifier.2"}
    differing = [k for k in kept if k.rpartition(".")[0] not in classifier]
    lost = [k for k in before if k not in tensors and not k.endswith("num_batches_tracked")]
    # As the issue of those libraries' users has it: the plain constructor, strictly.
    if library == "timm":
        again = timm.create_model(TIMM.get(name, name), checkpoint_path=str(written))
    else:
        again = make()
        again.load_state_dict(tensors)
    back = features_of(without_classifier(library, again), images)
    if name.startswith("resnet"):  # whose names timm shares
        other = timm.create_model(name, checkpoint_path=str(written))
        assert np.array_equal(features_of(without_classifier("timm", other), images[:4]), back[:4])
    result = {
        "photographs": f"{len(images)} of {side} x {side}",
        "tensors": len(tensors),
        "not_equal_to_the_bit": differing,
        "lost": lost,
        "torch_to_jax": off(found, expected),
        "jax_to_torch": off(back, found),
    }
    hub = run.export("hub-folder", folder / "hub")
    if (hub / "config.json").exists():
        hubbed = timm.create_model(f"local-dir:{hub}", pretrained=True).eval()
        result["hub_folder"] = off(features_of(hubbed, images[:4]), found[:4])
    with contextlib.suppress(ImportError):
        import onnxruntime

        path = run.export("onnx", folder / "onnx") / "model.onnx"
        session = onnxruntime.InferenceSession(str(path))
        x = ((images[:5] / 255.0 - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2)
        result["onnx"] = off(session.run(None, {"images": x})[0], found[:5])
        result["onnx_bytes"] = path.stat().st_size
    return result


def cost(folder: pathlib.Path) -> dict:
    """Time and peak memory of `sdclr import` and `sdclr export` for ResNet-50, each a process of its own."""
    model = randomised(torchvision.models.resnet50())
    save_file(model.state_dict(), folder / "resnet50.safetensors")
    torch.save(model.state_dict(), folder / "resnet50.pth")
    found = {}
    commands = {
        "import .safetensors": ["import", str(folder / "resnet50.safetensors"), f"--out={folder / 'run'}"],
        "export torchvision": ["export", str(folder / "run"), "--to=torchvision"],
        "python -c 'import jax' and a device": None,
        "export authors": ["export", str(folder / "run"), "--to=authors"],
        "import .pth": ["import", str(folder / "resnet50.pth"), f"--out={folder / 'run2'}"],
        "export onnx": ["export", str(folder / "run"), "--to=onnx"],
    }
    # Processor time does not depend on what else the machine does. VmHWM is of this program alone; getrusage's peak
    # begins with that of the process that started it.
    told = (
        "import re, resource; r = resource.getrusage(resource.RUSAGE_SELF); "
        "print('USED', re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1], r.ru_utime + r.ru_stime)"
    )
    code = f"import sys; from sdclr_jax.commands.main import main; s = main(sys.argv[1:]); {told}; sys.exit(s)"
    idle = f"import jax; jax.devices(); {told}"
    for name, argv in commands.items():
        start = time.perf_counter()
        command = [sys.executable, "-c", code, *argv] if argv else [sys.executable, "-c", idle]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if said.returncode:
            raise SystemExit(f"{name}: {said.stderr}")
        peak, busy = map(float, said.stdout.split("USED ")[1].split())
        found[name] = {"seconds": round(seconds, 1), "cpu_seconds": round(busy, 1), "peak_mib": round(peak / 1024)}
        print(name, found[name], flush=True)
    found["the weights"] = {"mib": round((folder / "resnet50.safetensors").stat().st_size / 2**20)}
    return found


class Norms(torch.nn.Module):
    """A norm for each branch, as the layout of the SDCLR code has them."""

    def __init__(self, make, width):
        super().__init__()
        self.bn_list = torch.nn.ModuleList([make(width) for _ in range(2)])
        self.branch = 0

    def forward(self, x):
        return self.bn_list[self.branch](x)


class Shortcut(torch.nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv = torch.nn.Conv2d(before, after, 1, stride, bias=False)
        self.bn = Norms(torch.nn.BatchNorm2d, after)

    def forward(self, x):
        return self.bn(self.conv(x))


class Basic(torch.nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = Norms(torch.nn.BatchNorm2d, after)
        self.conv2 = torch.nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = Norms(torch.nn.BatchNorm2d, after)
        self.downsample = Shortcut(before, after, stride) if before != after else None

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (self.downsample(x) if self.downsample else x))


class Projector(torch.nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.fc1 = torch.nn.Linear(width, width)
        self.fc2 = torch.nn.Linear(width, width, bias=False)
        self.fc3 = torch.nn.Linear(width, out, bias=False)
        self.bn1, self.bn2, self.bn3 = (Norms(torch.nn.BatchNorm1d, w) for w in (width, width, out))

    def forward(self, x):
        x = torch.relu(self.bn1(self.fc1(x)))
        return self.bn3(self.fc3(torch.relu(self.bn2(self.fc2(x)))))


class Layout(torch.nn.Module):
    """ResNet-18 for 32 x 32 images with a norm per branch, names and shapes of tests/golden."""

    def __init__(self, width=64, out=128):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = Norms(torch.nn.BatchNorm2d, width)
        before = width
        for i in range(4):
            after = width * 2**i
            setattr(
                self, f"layer{i + 1}", torch.nn.Sequential(Basic(before, after, 1 + (i > 0)), Basic(after, after, 1))
            )
            before = after
        self.fc = Projector(before, out)

    def features(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean(dim=(2, 3))

    def through(self, x, branch, rate):
        """Features and projection of a branch; the sparse one keeps the largest 1 - rate of the convolutions."""
        for module in self.modules():
            if isinstance(module, Norms):
                module.branch = branch
        convolutions = [m for m in self.modules() if isinstance(m, torch.nn.Conv2d)]
        whole = [m.weight.data for m in convolutions]
        if branch:
            magnitudes = torch.cat([w.abs().ravel() for w in whole]).sort().values
            threshold = magnitudes[int(np.ceil(rate * len(magnitudes)))]
            for m in convolutions:
                m.weight.data = torch.where(m.weight.abs() >= threshold, m.weight, 0)
        with torch.no_grad():
            features = self.features(x)
            projection = self.fc(features)
        for m, w in zip(convolutions, whole, strict=True):
            m.weight.data = w
        return features.numpy(), projection.numpy()


def authors_layout(images: np.ndarray, folder: pathlib.Path, rate: float = 0.9) -> dict:
    """A checkpoint of that layout through both branches, with the mask, and out again."""
    import jax

    from sdclr_jax import branches, parallel, recipes
    from sdclr_jax.run.checkpoints import Checkpoints

    golden = json.loads((ROOT / "tests" / "golden" / "official_step_resnet18_cifar.json").read_text())
    model = randomised(Layout())
    state = {k: x for k, x in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert {k: list(x.shape) for k, x in state.items()} == golden["shapes"]
    held = {"epoch": 2000, "state_dict": {f"module.{k}": x for k, x in model.state_dict().items()}, "optim": {}}
    torch.save(held, folder / "model.pt")
    fields = {"projector": {"layers": 3, "hidden": 512, "out": 128}, "prune.rate": rate}
    run = sdclr_jax.import_weights(folder / "model.pt", folder / "run", "cifar10_lt:sdclr", fields)
    x = ((images / 255.0 - MEAN) / STD).astype(np.float32)
    shardings = parallel.shardings(jax.local_devices()[:1])
    like = recipes.abstract_state(run.config, (1, 32, 32, 3), shardings)
    with Checkpoints(run.path / "checkpoints", read_only=True) as checkpoints:
        restored = checkpoints.restore(like=like)
    method = recipes.method(run.config, 1)
    restored = jax.jit(method.refresh)(restored)
    found = {}
    for number, branch in enumerate(("dense", "sparse")):
        variables = branches.variables(
            branches.BRANCHES[branch], restored.params, restored.stats, restored.mask, restored.target
        )
        outputs = jax.jit(lambda v, x: method.network.apply(v, x, train=False))(variables, x)
        expected = model.through(torch.from_numpy(x).permute(0, 3, 1, 2), number, rate)
        found[f"{branch}_features"] = off(np.asarray(outputs.features), expected[0])
        found[f"{branch}_projections"] = off(np.asarray(outputs.projection), expected[1])
    kept = sum(int(m.sum()) for m in jax.tree.leaves(restored.mask))
    found |= {"mask_keeps": kept, "of_weights": sum(m.size for m in jax.tree.leaves(restored.mask))}
    tensors = load_file(run.export("authors", folder / "out") / "model.safetensors")
    found["not_equal_to_the_bit"] = [k for k, v in state.items() if not torch.equal(tensors[k], v)]
    found["tensors"] = len(tensors)
    return found


class SmallResNet(torchvision.models.ResNet):
    """torchvision's, 4 wide instead of 64."""

    def __init__(self, block, layers):
        super().__init__(block, layers)
        self.conv1 = torch.nn.Conv2d(3, 4, 7, 2, 3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(4)
        self.fc = torch.nn.Identity()

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
        self.inplanes = 4 if planes == 64 else self.inplanes
        return super()._make_layer(block, planes // 16, blocks, stride, dilate)


def golden() -> None:
    """Names and shapes of the real models, and features of tiny ones made by the libraries' own classes."""
    from timm.models.convnext import ConvNeXt
    from timm.models.vision_transformer import VisionTransformer
    from torchvision.models import resnet

    sys.path.insert(0, str(ROOT))  # tests/ is not installed with the package
    from tests.interop.files import made

    lines = []
    for (library, name), (make, _) in MODELS.items():
        if name in ("resnet34", "vit_small"):
            continue
        lines.append(f"# {library} {name}")
        lines += [
            f"{key} {'x'.join(map(str, x.shape))}"
            for key, x in make().state_dict().items()
            if not key.endswith("num_batches_tracked")
        ]
    (ROOT / "tests" / "golden" / "torch_names.txt").write_text("\n".join(lines) + "\n")
    tiny = {
        "resnet, bottleneck": (SmallResNet(resnet.Bottleneck, [1, 1, 1, 1]), 64),
        "vit": (
            VisionTransformer(img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=0),
            8,
        ),
        "convnext": (ConvNeXt(depths=(1, 1, 2, 1), dims=(2, 4, 8, 16), num_classes=0), 35),
    }
    found = {"torchvision": torchvision.__version__, "timm": timm.__version__}
    for name, (model, side) in tiny.items():
        state = model.state_dict()
        for key, x in state.items():
            if not key.endswith("num_batches_tracked"):
                x.copy_(torch.from_numpy(made(key, tuple(x.shape))))
        images = np.random.default_rng(0).standard_normal((2, side, side, 3))
        with torch.no_grad():
            features = model.double().eval()(torch.from_numpy(images).permute(0, 3, 1, 2))
        shapes = {key: list(x.shape) for key, x in state.items() if not key.endswith("num_batches_tracked")}
        found[name] = {"side": side, "shapes": shapes, "features": features.numpy().round(9).tolist()}
    (ROOT / "tests" / "golden" / "torch_features.json").write_text(json.dumps(found) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, default="experiments/results/interop")
    parser.add_argument("--golden", action="store_true")
    options = parser.parse_args()
    if options.golden:
        golden()
        return
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "figures.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    done = {json.loads(line)["of"] for line in lines}
    libraries = ("torch", "torchvision", "timm", "safetensors", "onnxruntime", "jax2onnx", "jax", "flax")
    parts = {"authors": lambda folder: authors_layout(photographs(side=32), folder), "cost of ResNet-50": cost}
    parts |= {f"{library} {name}": partial(round_trip, library, name) for library, name in MODELS}
    parts |= {"versions": lambda folder: {name: importlib.metadata.version(name) for name in libraries}}
    for of, measure in parts.items():
        if of in done:  # run it again to go on after a stop
            continue
        with tempfile.TemporaryDirectory() as scratch:
            figures = measure(pathlib.Path(scratch))
        with path.open("a") as file:
            file.write(json.dumps({"of": of} | figures) + "\n")
        print(of, figures, flush=True)


if __name__ == "__main__":
    main()
