"""The self-test of the compiler: it passes here, and it sees every way to fail."""

from __future__ import annotations

import importlib.metadata
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn import canary
from deeplearn.errors import UsageError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "deeplearn"


def child(monkeypatch, program):
    monkeypatch.setattr(canary, "COMMAND", (sys.executable, "-c", program))


def test_the_installed_compiler_passes_and_is_remembered(cache, monkeypatch):
    canary.check()
    (remembered,) = cache.iterdir()
    assert remembered.name.startswith("canary-")
    child(monkeypatch, "raise SystemExit(3)")
    canary.check()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("print('a'); print('scan'); raise SystemExit(3)", r"computes wrong values \(scan\)"),
        ("import os; print('scan', flush=True); os.abort()", r"crashes with SIGABRT \(scan\)"),
        ("import os; os.kill(os.getpid(), 11)", r"crashes with SIGSEGV \(at start\)"),
        ("import time; print('scan', flush=True); time.sleep(60)", r"come to an end \(scan\)"),
    ],
)
def test_a_failure_says_what_to_install_and_is_not_remembered(cache, monkeypatch, program, message):
    monkeypatch.setattr(canary, "SECONDS", 1.0)
    child(monkeypatch, program)
    with pytest.raises(UsageError, match=message) as error:
        canary.check()
    version = importlib.metadata.version("jaxlib")
    assert f"pip install 'jax!={version}'" in str(error.value)
    assert "\n" not in str(error.value)
    assert not cache.exists()


@pytest.mark.parametrize("program", ["import nonsense", "import os; os.kill(os.getpid(), 9)"])
def test_a_test_that_cannot_run_warns_and_is_not_remembered(cache, monkeypatch, program):
    child(monkeypatch, program)
    with pytest.warns(UserWarning, match="did not run: exit code"):
        canary.check()
    monkeypatch.setattr(canary, "COMMAND", ("/no/such/program",))
    with pytest.warns(UserWarning, match="No such file"):
        canary.check()
    assert not cache.exists()


@pytest.mark.parametrize("home", ["/dev/null/nowhere", "/proc/nowhere"])
def test_a_cache_that_cannot_be_written_does_not_matter(monkeypatch, home):
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    child(monkeypatch, "")
    canary.check()


def test_the_memory_is_of_one_installation(monkeypatch):
    seen = {canary._remembered()}
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    seen.add(canary._remembered())
    real = importlib.metadata.version
    for changed in ("jax", "jaxlib"):
        monkeypatch.setattr(
            importlib.metadata, "version", lambda name, c=changed: "0" if name == c else real(name)
        )
        seen.add(canary._remembered())
    assert len(seen) == 4


def test_without_xdg_the_home_is_used_and_without_home_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/paths/are/void")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert canary._remembered().parent == tmp_path / ".cache" / "deeplearn"

    def homeless():
        raise RuntimeError

    monkeypatch.setattr(canary.Path, "home", homeless)
    assert canary._remembered() is None


def test_no_setting_of_jax_reaches_the_test(monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_JIT", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    child(
        monkeypatch,
        "import os, deeplearn.errors\n"
        "found = {name: text for name, text in os.environ.items() if name.startswith('JAX_')}\n"
        "raise SystemExit(0 if found == {'JAX_PLATFORMS': 'cpu'} else 3)",
    )
    canary.check()


@pytest.mark.parametrize("error", [0.0, 0.5, np.nan])
def test_a_wrong_value_is_named(monkeypatch, capsys, error):
    x = np.ones((4, 4), np.float32)
    wrong = x.copy()
    wrong[3, 3] += error
    monkeypatch.setattr(
        canary,
        "probes",
        lambda: iter([("right", jnp.positive, (x,), x), ("wrong", jnp.positive, (x,), wrong)]),
    )
    assert canary.main() == (canary.WRONG if error else 0)
    assert capsys.readouterr().out.splitlines() == ["right", "wrong"]


def test_probes_have_shapes_that_compare():
    names = []
    for name, program, arguments, expected in canary.probes():
        names.append(name)
        found = np.asarray(program(*arguments))
        assert found.shape == expected.shape, name
        assert np.abs(expected).max() > 0.1, f"{name}: zeros would pass"
    assert len(names) > 10
