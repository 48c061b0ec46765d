"""Fixtures of the whole suite. Shapes that broadcast by accident are errors in every test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent

jax.config.update("jax_numpy_rank_promotion", "raise")
# What most tests ask does not depend on how well XLA compiles, and half of their time is compiling.
# Those that ask for it take the fixture `optimized`; those that start a process choose.
HASTY = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "1").lower() in ("1", "true")
jax.config.update("jax_disable_most_optimizations", HASTY)
# The same examples in every run; no deadline, since a first call compiles.
hypothesis.settings.register_profile("reproducible", deadline=None, derandomize=True)
hypothesis.settings.load_profile("reproducible")


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps compiled programs for all tests of this session, and for the processes they start."""
    session = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("jax_compilation_cache_dir", str(session / "programs")),
            ("jax_persistent_cache_min_compile_time_secs", 0.2),
        ):
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        yield


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """Frees what a file has compiled."""
    yield
    jax.clear_caches()


@pytest.fixture
def optimized() -> Iterator[None]:
    """Programs compiled as they are in use."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", HASTY)


@pytest.fixture
def key() -> jax.Array:
    """The random key of a test."""
    return jax.random.key(0)


@pytest.fixture(scope="session")
def run_on_devices() -> Callable[..., str]:
    """A function that runs a Python script on a number of fake CPU devices.

    `run_on_devices(count, script, timeout=100)` returns what the script printed; it fails the test
    with the script's errors where the script fails or takes more than `timeout` seconds.
    """

    def run(count: int, script: str, timeout: float = 100) -> str:
        environment = {
            **os.environ,
            "JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(HASTY)),
            "JAX_NUMPY_RANK_PROMOTION": "raise",
            "JAX_PLATFORMS": "cpu",
            # Fewer threads than devices can deadlock in a collective (jax 0.10 on 2 cores).
            "NPROC": "16",
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        }
        command = [sys.executable, "-c", script]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired as late:
            pytest.fail(f"no end after {timeout} s on {count} devices\n{late.stderr or ''}")
        if done.returncode:
            pytest.fail(f"exit code {done.returncode} on {count} devices\n{done.stderr}")
        return done.stdout

    return run


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TFDS directory with a tabular set in it."""
    from records import digits

    root = tmp_path_factory.mktemp("tfds")
    assert len(digits(root)) == 1249
    return root


@pytest.fixture
def copied(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it that may be broken; without the arrays beside the records."""
    subprocess.run(["cp", "-r", f"{prepared}/.", tmp_path], check=True)
    for path in tmp_path.rglob("arrays-*"):
        path.unlink()
    return tmp_path
