"""One published step, number for number, against figures of the authors' PyTorch code in float64.

`tests/golden/official_step_resnet18_cifar.json`: ResNet-18, 3x3 stem, private norms, rate 0.9, batch 16. Weights and
inputs are made from the names of the parameters, so both sides start from the same numbers, here from a file of the
authors' layout; `probe` is a weighted sum over a whole tensor, so one number depends on every entry.
"""

import json
import os
import pathlib
import zlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sdclr_jax import branches, interop, objectives, optim, pruning, recipes, trees
from sdclr_jax.data import augment
from sdclr_jax.models import ENCODERS, Head, Network, ResNet
from sdclr_jax.train import Method

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "official_step_resnet18_cifar.json").read_text())
PAIRS = ((("dense", 0), ("sparse", 1)),)
BRANCH_NUMBER = {"dense": 0, "sparse": 1}
# As float32, in which the authors' networks hold them: decimal ones are 1e-8 from that.
IMAGENET_MEAN, IMAGENET_STD = (
    np.array(x, np.float32).astype(np.float64) for x in (augment.IMAGENET_MEAN, augment.IMAGENET_STD)
)
# Convolutions of XLA that are not optimized are slow.
OPTIMIZED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
OPTIMIZED |= {"xla_cpu_use_fusion_emitters": True} if "fusion_emitters" in os.environ.get("XLA_FLAGS", "") else {}
# In float32, rounding through 20 layers and two branches: a value near 0 falls on the other side of a ReLU on some
# processors. Without fused multiply-adds, a gradient is off by 3e-3 of its norm.
TOLERANCE = {"float64": {"loss": 1e-10, "tensor": 1e-10}, "float32": {"loss": 1e-4, "tensor": 1e-2}}


def torch_name(name: str, branch: str) -> str:
    """The authors' name of a leaf: encoder/stage1_block2/norm1/scale -> layer1.1.bn1.bn_list.0.weight."""
    part, _, rest = name.partition("/")
    encoder = interop.SIDES[ResNet]["authors, a norm per branch"].table
    table = interop.names.HEAD_IN_LISTS if part == "projector" else encoder
    return interop.names.theirs(table, [rest], BRANCH_NUMBER[branch])[rest]


def made_weight(name: str) -> np.ndarray:
    shape = GOLDEN["shapes"][name]
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) == 4:
        return x * np.sqrt(2 / np.prod(shape[1:]))
    if len(shape) == 2:
        return x * np.sqrt(1 / shape[1])
    return 0.1 * x if name.endswith("bias") else 1 + 0.1 * x


def figures(name: str, x: np.ndarray) -> tuple[float, float]:
    x = np.asarray(x, np.float64)
    probe = np.random.default_rng(zlib.crc32(("probe:" + name).encode())).standard_normal(x.shape)
    return float(np.linalg.norm(x)), float((probe * x).sum() / np.sqrt(x.size))


def per_parameter(params) -> dict[str, np.ndarray]:
    """The trainable leaves under the authors' names and in their layout."""
    tensors = {torch_name(k, "dense"): v for k, v in trees.named(params["weights"]).items()}
    for branch in BRANCH_NUMBER:
        tensors |= {torch_name(k, branch): v for k, v in trees.named(params["norms"][branch]).items()}
    return {k: interop.names.to_theirs(np.asarray(v), k) for k, v in tensors.items()}


def published_file(path: pathlib.Path) -> pathlib.Path:
    """A checkpoint of the authors' layout; its running means are 0 and its variances 1."""
    start = {"running_mean": np.zeros, "running_var": np.ones}
    tensors = {
        name: start[name.split(".")[-1]](shape) if "running" in name else made_weight(name)
        for name, shape in GOLDEN["shapes"].items()
    }
    interop.write(path, tensors, {})
    return path


def assert_equal(tensors: dict[str, np.ndarray], golden: dict, tolerance: float) -> None:
    assert tensors.keys() == golden.keys()
    for name, x in tensors.items():
        norm, probe = figures(name, x)
        # The bias before a norm has no gradient but rounding, so a tensor's scale has a floor.
        scale = max(golden[name]["norm"], 1e-3)
        assert norm == pytest.approx(golden[name]["norm"], abs=tolerance * scale), name
        assert probe == pytest.approx(golden[name]["probe"], abs=tolerance * scale), name


def convolution(x, kernel, strides, padding, **others):
    """A convolution as a matrix product: XLA's own in float64 takes a CPU minutes."""
    assert others["lhs_dilation"] == others["rhs_dilation"] == (1, 1) and others["feature_group_count"] == 1
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    size = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:3], kernel.shape[:2], strides, strict=True)]
    places = []
    for i, j in np.ndindex(*kernel.shape[:2]):
        last = (x.shape[0], i + (size[0] - 1) * strides[0] + 1, j + (size[1] - 1) * strides[1] + 1, x.shape[3])
        places.append(jax.lax.slice(x, (0, i, j, 0), last, (1, *strides, 1)))
    return jnp.concatenate(places, -1) @ kernel.reshape(-1, kernel.shape[3])


def published_method(dtype) -> Method:
    def no_views(key, images):
        raise AssertionError("the figures start from given views")

    return Method(
        network=Network(ENCODERS["resnet18"](dtype=dtype), Head(3, 512, 128, dtype=dtype)),
        branches=branches.choose({"dense", "sparse"}, "private"),
        pairs=PAIRS,
        make_views=no_views,
        objective=objectives.OBJECTIVES["nt_xent"](temperature=0.2),
        optimizer=optim.sgd(
            learning_rate=0.5,
            momentum=0.9,
            weight_decay=1e-4,
            warmup_steps=0,
            total_steps=10**9,
            final_learning_rate=1e-6,
        ),
        prune=partial(pruning.magnitude_mask, rate=0.9),
    )


@pytest.fixture(scope="module", params=["float64", "float32"])
def published(request, tmp_path_factory):
    """The published step: state before and after, gradient, outputs, in the type of the parameter."""
    # Flax asks for promote_types(float64, float32), which strict promotion refuses.
    with (
        jax.enable_x64(request.param == "float64"),
        jax.numpy_dtype_promotion("standard"),
        pytest.MonkeyPatch.context() as patch,
    ):
        dtype = jnp.dtype(request.param)
        if dtype == np.float64:
            patch.setattr(jax.lax, "conv_general_dilated", convolution)
        method = published_method(dtype)
        shape = jax.ShapeDtypeStruct((1, 32, 32, 3), dtype)
        state = jax.eval_shape(method.init, jax.ShapeDtypeStruct((), jnp.uint32), shape)

        wide = lambda x: jax.ShapeDtypeStruct(x.shape, dtype) if x.dtype == np.float32 else x  # noqa: E731
        state = jax.tree.map(wide, state)
        # The weights come as a user's do, from a file.
        shapes = {f"params/{k}": v.shape for k, v in trees.named(branches.dense(state.params)).items()}
        shapes |= {f"batch_stats/{k}": v.shape for k, v in trees.named(state.stats["dense"]).items()}
        path = published_file(tmp_path_factory.mktemp("authors") / "model.safetensors")
        taken = interop.take(path, method.network.encoder, "resnet18", shapes)
        assert taken.aside == () and taken.branches.keys() == BRANCH_NUMBER.keys()
        state = recipes.started(state, taken.branches)
        state = state.replace(
            step=jnp.int32(0),
            key=jax.random.key(0),
            mask=pruning.ones(state.params["weights"], method.network.prunable),
            opt_state=method.optimizer.transform.init(state.params),
        )
        state = jax.jit(method.refresh)(state)
        random = np.random.default_rng(0)
        views = [random.random((GOLDEN["setup"]["batch"], 3, 32, 32)).transpose(0, 2, 3, 1) for _ in range(2)]
        views = tuple(jnp.asarray((v - IMAGENET_MEAN) / IMAGENET_STD, dtype) for v in views)

        def everything(state, views):
            outputs, _ = method.forward(state.params, state, views)
            after, scalars = method.update(state, views)
            return outputs, after, scalars

        outputs, after, scalars = jax.jit(everything, compiler_options=OPTIMIZED if dtype == np.float32 else None)(
            state, views
        )
        yield request.param, state, outputs, after, scalars


def test_the_mask_keeps_exactly_the_published_counts(published):
    _, state, *_ = published
    kept = {torch_name(k, "dense").removesuffix(".weight"): np.asarray(v) for k, v in trees.named(state.mask).items()}
    assert {k: [int(v.sum()), v.size] for k, v in kept.items()} == GOLDEN["mask"]["kept_per_layer"]
    assert sum(int(v.sum()) for v in kept.values()) == GOLDEN["mask"]["kept"] == 1_115_923
    assert sum(v.size for v in kept.values()) == GOLDEN["mask"]["total"] == 11_159_232
    assert float(jax.jit(pruning.density)(state.mask)["all"]) == pytest.approx(1_115_923 / 11_159_232, rel=1e-6)


def test_loss_and_both_branches_outputs(published):
    dtype, _, outputs, _, scalars = published
    tolerance = TOLERANCE[dtype]
    assert float(scalars["loss"]) == pytest.approx(GOLDEN["loss"], rel=tolerance["loss"])
    for side, (branch, view) in zip(("dense", "sparse"), PAIRS[0], strict=True):
        projection = np.asarray(outputs[branch, view].projection)
        golden = GOLDEN["features"][side]
        norm, probe = figures(side, projection)
        assert norm == pytest.approx(golden["norm"], rel=tolerance["tensor"])
        assert probe == pytest.approx(golden["probe"], abs=tolerance["tensor"] * golden["norm"])
        np.testing.assert_allclose(projection[0, :8], golden["row0"], atol=tolerance["tensor"] * 3)


def test_parameters_after_one_sgd_step(published):
    dtype, _, _, after, _ = published
    assert_equal(per_parameter(after.params), GOLDEN["param_after_sgd"], TOLERANCE[dtype]["tensor"])


def test_every_gradient(published):
    dtype, before, _, after, _ = published
    trace = optax.tree.get(after.opt_state, "trace")  # at the first step: gradient + decay * parameter
    gradient = jax.tree.map(
        lambda t, p: np.asarray(t, np.float64) - 1e-4 * np.asarray(p, np.float64), trace, before.params
    )
    assert_equal(per_parameter(gradient), GOLDEN["grad"], TOLERANCE[dtype]["tensor"])


def test_running_statistics(published):
    """PyTorch stores the unbiased variance, we (flax) the biased one: per update ours is (n - 1) / n of theirs."""
    dtype, _, _, after, _ = published
    golden = GOLDEN["running_stats_after_one_forward"]
    tensors = {}
    for branch in BRANCH_NUMBER:
        for name, x in trees.named(after.stats[branch]).items():
            x = np.asarray(x, np.float64)
            if name.endswith("var"):
                n = GOLDEN["setup"]["batch"] * positions(name)
                x = 0.9 + (x - 0.9) * n / (n - 1)
            tensors[torch_name(name, branch)] = x
    assert_equal(tensors, golden, TOLERANCE[dtype]["tensor"])


def positions(name: str) -> int:
    """Places in space that a norm averages over, for images of 32 x 32."""
    if name.startswith("projector"):
        return 1
    stage = int(name.split("/")[1].removeprefix("stage")[0]) if "/stage" in name else 1
    return (32 // 2 ** (stage - 1)) ** 2
