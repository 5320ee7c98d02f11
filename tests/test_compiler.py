"""What XLA is told on CPUs, and that sums are right there."""

import os
import subprocess
import sys

import pytest

from sdclr_jax import compiler

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


WRONG_BY_DEFAULT = """
import numpy as np
import sdclr_jax
sdclr_jax.config  # the door, from where everybody starts
import jax, jax.numpy as jnp
rows = np.zeros((32_769, 3), np.float32)
rows[:, 0] = np.arange(len(rows))
squares = jax.jit(jax.vmap(lambda row: jnp.square(jnp.eye(3) @ row).sum()))(rows)
np.testing.assert_array_equal(squares, rows[:, 0] ** 2)
ones = np.ones((3, 1, 2, 2, 8, 8, 8), np.float32)  # here jaxlib 0.10.2 ends the process
np.testing.assert_array_equal(jax.jit(lambda a, b: (a * b).sum(axis=3))(ones, ones), 2)
"""


def test_programs_that_some_versions_compile_wrong():
    """Also with all optimizations, as users have it."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")}
    environment |= {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    ended = subprocess.run([sys.executable, "-c", WRONG_BY_DEFAULT], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
