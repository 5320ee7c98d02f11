import types

import jax
import jax.numpy as jnp
import pytest

from sdclr_jax.commands import main
from sdclr_jax.errors import UserError
from sdclr_jax.run import profile
from tests.runs import arguments


def test_steps_after_the_warm_up_are_traced_and_counted(tmp_path, monkeypatch):
    clock = iter([100.0, 104.0])
    monkeypatch.setattr(profile.time, "perf_counter", lambda: next(clock))
    began, double = [], jax.jit(lambda state, images: state @ images)
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: began.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: began.append("ended"))
    profiled = profile.Profile(tmp_path, 4, after=13, until=17, lower=double.lower)
    found = {}
    for number in range(11, 18):
        step = types.SimpleNamespace(number=number, state=jnp.ones((2, 3)), images=jnp.ones((3, 5)))
        found[number] = profiled.after(step, waited=number / 10, batch_size=8), len(began)
    assert [number for number, (costs, _) in found.items() if costs] == [17]
    assert [count for _, count in found.values()] == [0, 0, 1, 1, 1, 1, 2]
    costs = found[17][0]
    assert (costs.steps, costs.seconds, costs.images) == (4, 1.0, 8.0)
    assert costs.waiting == pytest.approx((1.7 - 1.3) / 4)
    assert costs.operations == 2 * 2 * 3 * 5
    assert costs.peak is None, "nobody publishes that of these devices"


def test_the_peak_stands_in_the_sentence(tmp_path):
    names = {"TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5p": 459e12, "TPU v6 lite": 918e12}
    names |= {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA A100-SXM4-40GB": 312e12, "Tesla T4": 65e12}
    names |= {"NVIDIA H100 PCIe": 756e12, "TPU v6e": 918e12, "NVIDIA L4": 121e12, "Tesla V100-PCIE-16GB": 112e12}
    others = (
        "NVIDIA L40S",
        "NVIDIA RTX A1000 Laptop GPU",
        "NVIDIA T400 4GB",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "cpu",
    )
    for name, peak in (names | dict.fromkeys(others)).items():
        assert profile.peak_of(name) == peak
    costs = profile.Costs(20, 0.01, 51200.0, 0.0312, 1.1e12, 4 * 275e12, "4 x TPU v4")
    assert costs.sentence(tmp_path) == (
        "profile: 20 steps of 0.01 s, 5.12e+04 images a second, 3.1% of the time waiting for data; 1.1e+12 operations "
        f"a step, 1.1e+14 a second on 4 x TPU v4 (10.0% of the published bfloat16 peak); open {tmp_path} with "
        "`tensorboard` and its profile plugin, or its trace with ui.perfetto.dev"
    )


def test_steps_that_are_not_there_are_refused_before_anything_is_written(tmp_path, capsys):
    with pytest.raises(UserError, match="^--profile is 5, and 4 steps are left after step 6"):
        profile.check(5, after=6, until=10)
    profile.check(4, after=6, until=10)
    assert main.main(["pretrain", *arguments(tmp_path / "run", tmp_path / "data"), "--profile=13"]) == 2
    assert "--profile is 13, and 12 steps are left" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
