"""What XLA is told on CPUs, and that sums are right there."""

import functools
import importlib.metadata
import os
import subprocess
import sys

import pytest

from sdclr_jax import compiler, parallel

OURS = f"{compiler.FLAG}=-individual_convolution,-reduce"


@pytest.fixture
def environment(monkeypatch):
    """On a machine without accelerators, with the version of jaxlib that has the fault."""
    monkeypatch.setattr(compiler.importlib.metadata, "version", lambda name: "0.10.2")
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    return monkeypatch


def flags():
    compiler.set_flags()
    return os.environ.get("XLA_FLAGS")


def test_flags_are_set_once_and_stand_behind_those_of_the_user(environment):
    assert flags() == OURS
    assert flags() == OURS
    environment.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX2")
    assert flags() == f"--xla_cpu_max_isa=AVX2 {OURS}"


def test_what_the_user_says_of_the_same_flag_stays(environment):
    environment.setenv("XLA_FLAGS", f"{compiler.FLAG}=+reduce")
    assert flags() == f"{compiler.FLAG}=+reduce"


def test_a_version_that_may_not_know_the_flag_is_left_alone(environment):
    environment.setattr(compiler.importlib.metadata, "version", lambda name: "0.11.0")
    assert flags() is None


@pytest.mark.parametrize("plugin", ["libtpu", "jax_plugins"])
def test_nothing_is_set_where_there_may_be_an_accelerator(environment, plugin):
    environment.setattr(compiler.importlib.util, "find_spec", {plugin: "there"}.get)
    assert flags() is None
    environment.setenv("JAX_PLATFORMS", "cpu")
    assert flags() == OURS


@pytest.mark.parametrize(
    ("version", "given", "remedy"),
    [
        ("0.10.2", f"{compiler.FLAG}=+reduce", f"leave {compiler.FLAG} out of XLA_FLAGS"),
        ("0.10.2", "--xla_cpu_max_isa=AVX2", "set JAX_PLATFORMS=cpu, and use sdclr_jax before"),
        ("0.11.0", "", "install a version of jaxlib that is right, such as 0.12.0.1"),
    ],
)
def test_one_warning_says_what_to_do_where_sums_are_wrong(environment, caplog, version, given, remedy):
    environment.setattr(compiler.importlib.metadata, "version", lambda name: version)
    environment.setattr(compiler, "sums_are_right", lambda: False)
    environment.setattr(compiler, "warn_if_wrong", functools.cache(compiler.warn_if_wrong.__wrapped__))
    environment.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    environment.setenv("XLA_FLAGS", given)
    for _ in range(2):
        parallel.shardings()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"jaxlib {version} with XLA_FLAGS='{given}' computes some sums wrong on CPUs: {remedy}")


def test_nothing_is_said_where_sums_are_right(environment, caplog):
    environment.setattr(compiler, "sums_are_right", lambda: True)
    environment.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    compiler.warn_if_wrong.__wrapped__()
    assert not caplog.records


# The first program is that of `compiler.sums_are_right`, written out.
WRONG_BY_DEFAULT = """
import numpy as np
import sdclr_jax
sdclr_jax.config  # the door, from where everybody starts
from sdclr_jax import compiler
assert compiler.sums_are_right()
import jax, jax.numpy as jnp
rows = np.zeros((32_769, 3), np.float32)
rows[:, 0] = np.arange(len(rows))
squares = jax.jit(jax.vmap(lambda row: jnp.square(jnp.eye(3) @ row).sum()))(rows)
np.testing.assert_array_equal(squares, rows[:, 0] ** 2)
ones = np.ones((3, 1, 2, 2, 8, 8, 8), np.float32)  # here jaxlib 0.10.2 ends the process
np.testing.assert_array_equal(jax.jit(lambda a, b: (a * b).sum(axis=3))(ones, ones), 2)
"""


def as_users_have_it() -> dict[str, str]:
    """The environment of this process, with all optimizations and without flags."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")}
    return environment | {"JAX_ENABLE_COMPILATION_CACHE": "false"}


@pytest.mark.skipif(importlib.metadata.version("jaxlib") != "0.10.2", reason="another version is right by itself")
def test_the_check_sees_the_fault_where_the_flags_undo_ours():
    code = "from sdclr_jax import compiler, parallel; compiler.set_flags(); parallel.shardings()"
    environment = as_users_have_it() | {"XLA_FLAGS": f"{compiler.FLAG}=-individual_convolution"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert f"computes some sums wrong on CPUs: leave {compiler.FLAG} out of XLA_FLAGS" in ended.stderr


def test_programs_that_some_versions_compile_wrong():
    """Also with all optimizations, as users have it."""
    environment = as_users_have_it()
    ended = subprocess.run([sys.executable, "-c", WRONG_BY_DEFAULT], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
