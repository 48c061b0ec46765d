"""A self-test of the installed compiler: small programs, compiled for the CPU, against NumPy.

jaxlib 0.10.2 computed some sums silently wrong and crashed in others. These cases and everyday ones
run once for every installed version, in a process of their own, since some end in a segmentation
fault or never.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deeplearn.errors import UsageError

COMMAND = (sys.executable, "-m", "deeplearn.canary")
SECONDS = 120.0
WRONG = 3
CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
Probe = tuple[str, Callable[..., Any], tuple[np.ndarray, ...], np.ndarray]
"""What it is, the program, its arguments, and what NumPy makes of them."""


def check() -> None:
    """Raises UsageError where the installed jaxlib computes wrong values, crashes or hangs.

    It takes two to three seconds; what passed once is remembered in the user's cache directory.
    Where the test itself cannot run, it warns and passes.
    """
    remembered = _remembered()
    if remembered is not None and remembered.exists():
        return
    try:
        failure = _failure()
    except (OSError, RuntimeError) as error:
        warnings.warn(f"the self-test of the compiler did not run: {error}", stacklevel=2)
        return
    if failure is not None:
        version = importlib.metadata.version("jaxlib")
        raise UsageError(
            f"jaxlib {version} {failure} on this CPU, so no result could be trusted;"
            f" install another version: pip install 'jax!={version}' 'jaxlib!={version}'"
        )
    if remembered is not None:
        with contextlib.suppress(OSError):
            remembered.parent.mkdir(parents=True, exist_ok=True)
            remembered.touch()


def _failure() -> str | None:
    """What is wrong with the compiler, or None; raises RuntimeError where nobody can tell."""
    # Nothing but the compiler is under test: no setting of jax, no compilation cache.
    environment = {name: text for name, text in os.environ.items() if not name.startswith("JAX_")}
    root = str(Path(__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", root)])
    environment["JAX_PLATFORMS"] = "cpu"
    try:
        done = subprocess.run(
            COMMAND, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired as late:
        # What was captured is bytes in some Python versions, though text was asked for.
        output = late.stdout or ""
        output = output.decode() if isinstance(output, bytes) else output
        return f"does not come to an end ({_last_line(output)})"
    if done.returncode == WRONG:
        return f"computes wrong values ({_last_line(done.stdout)})"
    if -done.returncode in CRASHES:
        return f"crashes with {signal.Signals(-done.returncode).name} ({_last_line(done.stdout)})"
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}, {_last_line(done.stderr)}")
    return None


def _last_line(output: str) -> str:
    return (output.splitlines() or ["at start"])[-1]


def _remembered() -> Path | None:
    """The file that stands for a passed check of what is installed here; None without a home."""
    flags = ""
    with contextlib.suppress(OSError):
        found = re.search(r"^(flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.M)
        flags = found[0] if found else ""
    identity = "\n".join(
        [
            importlib.metadata.version("jax"),
            importlib.metadata.version("jaxlib"),
            sys.version,
            platform.platform(),
            flags,
            os.environ.get("XLA_FLAGS", ""),
            Path(__file__).read_text(),
        ]
    )
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        cache = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
    except RuntimeError:
        return None
    return cache / "deeplearn" / f"canary-{key}"


def probes() -> Iterator[Probe]:
    """The programs: those that failed once, then what every network is made of."""
    import jax
    import jax.numpy as jnp

    generator = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape, dtype=np.float32)

    x = normal(32_769, 3)

    def squares(x: Any) -> Any:
        return jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))(x)

    yield "jax#39103: squares of a vmapped product", squares, (x,), (x**2).sum(1)
    a, b = normal(3, 1, 2, 2, 8, 8, 8), normal(3, 1, 2, 2, 8, 8, 8)
    yield (
        "jax#40412: product and sum of rank 7",
        lambda a, b: (a * b).sum(3),
        (a, b),
        (a * b).sum(3),
    )
    a, b = normal(3, 2, 2, 1, 1, 1, 1, 1), normal(3, 2, 2, 9, 3, 3, 3, 9)
    yield (
        "jax#39257: product and sum of rank 8",
        lambda a, b: (a * b).sum(2),
        (a, b),
        (a * b).sum(2),
    )
    x = normal(200)
    yield "jax#39352: arctan", jnp.arctan, (x,), np.arctan(x)

    x, w, g = normal(64, 129), normal(129, 37), normal(64, 37)
    yield "matrix product", jnp.matmul, (x, w), x @ w
    yield "its gradient", lambda x, w, g: jax.vjp(jnp.matmul, x, w)[1](g)[1], (x, w, g), x.T @ g

    def convolve(x: Any, w: Any) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=numbers)

    x, w, g = normal(4, 14, 14, 5), normal(3, 3, 5, 7), normal(4, 12, 12, 7)
    patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
    expected = np.einsum("byxcij,ijcd->byxd", patches, w)
    yield "convolution", convolve, (x, w), expected
    expected = np.einsum("byxcij,byxd->ijcd", patches, g)
    yield "its gradient", lambda x, w, g: jax.vjp(convolve, x, w)[1](g)[1], (x, w, g), expected

    x = normal(64, 129)
    powers = np.exp(x - x.max(1, keepdims=True))
    yield "softmax", jax.nn.softmax, (x,), powers / powers.sum(1, keepdims=True)

    def normalize(x: Any) -> Any:
        return (x - x.mean(1, keepdims=True)) / jnp.sqrt(x.var(1, keepdims=True) + 1e-6)

    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
    yield "normalization", normalize, (x,), expected

    def accumulate(x: Any) -> Any:
        return jax.lax.scan(lambda total, row: (total + row, total + row), jnp.zeros(129), x)[1]

    yield "scan", accumulate, (x,), np.cumsum(x, 0)


def main() -> int:
    """Runs every probe; names the one it is at, so that a crash can be told."""
    import jax

    for name, program, arguments, expected in probes():
        print(name, flush=True)
        found = np.asarray(jax.jit(program)(*arguments))
        if not np.allclose(found, expected, rtol=1e-3, atol=1e-3):
            return WRONG
    return 0


if __name__ == "__main__":
    sys.exit(main())
