"""The receipt of a run: what was run, on what, by which code, and the hash of its final state."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplearn.errors import DataError
from deeplearn.report import files
from deeplearn.report.rows import number, parse_json
from deeplearn.tree_paths import path_name
from deeplearn.types import PyTree

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
CONFIG = ("jax_default_prng_impl", "jax_enable_x64", "jax_default_matmul_precision")
# The only variables that are recorded: they choose the devices or change the bits.
VARIABLES = ("JAX_PLATFORMS", "NPROC", "PJRT_NPROC", "XLA_FLAGS")
# Widest first; XLA:CPU compiles for the widest that the machine has.
INSTRUCTION_SETS = (
    ("amx", "amx_tile"),
    ("avx512", "avx512f"),
    ("avx2", "avx2"),
    ("avx", "avx"),
    ("sve", "sve"),
    ("neon", "asimd"),
)


def receipt(
    experiment: str,
    state: PyTree,
    metrics: Mapping[str, Mapping[str, float]],
    seconds: float,
) -> dict[str, Any]:
    """The record of a finished run, ready for JSON.

    `state` has `step` and `params`; `metrics` are the last values of each split; `seconds` is wall
    time. With several processes each must call it: a leaf that is spread over them is gathered.
    """
    return {
        "experiment": experiment,
        "steps": int(state.step),
        "seconds": round(seconds, 3),
        "parameters": parameter_count(state.params),
        "metrics": {
            split: {name: number(value) for name, value in values.items()}
            for split, values in metrics.items()
        },
        "state_sha256": state_sha256(state),
        "versions": versions(),
        "config": {name: getattr(jax.config, name) for name in CONFIG},
        "devices": devices(),
        "cpu": cpu(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "git": git(Path(__file__).parent),
    }


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Writes JSON whole or not at all; raises StorageError where it cannot be written."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    files.replace(path, text.encode() + b"\n")


def read_json(path: str | Path) -> Any:
    """Reads strict JSON: raises DataError for a missing file, a repeated key, NaN or infinity."""
    try:
        return parse_json(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; name a run directory") from None


def parameter_count(params: PyTree) -> int:
    """The number of scalars in a pytree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def state_sha256(state: PyTree) -> str:
    """SHA-256 (hex) over every leaf in the order of its path: path, dtype, shape and bytes.

    It depends on neither the sharding nor the containers' types. A typed PRNG key counts with its
    implementation and data. One leaf at a time is on the host.
    """
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    digest = hashlib.sha256()
    for path in sorted(leaves):
        dtype, array = _fetch(leaves[path])
        digest.update(json.dumps([path, dtype, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _fetch(leaf: Any) -> tuple[str, np.ndarray]:
    """The name of a leaf's type and its content on the host."""
    if not isinstance(leaf, jax.Array):
        array = np.asarray(leaf)
        return str(array.dtype), array
    dtype = str(leaf.dtype)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        from jax.experimental import multihost_utils

        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return dtype, np.asarray(leaf)


def versions() -> dict[str, str | None]:
    """Versions of Python, this package and what it computes with; None where not installed."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        # The root package stands above this module, so it is looked up and not imported.
        "deeplearn": sys.modules["deeplearn"].__version__,
    }
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def devices() -> dict[str, Any]:
    """Platform, kind and number of the devices of all processes."""
    first = jax.devices()[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": jax.device_count(),
        "processes": jax.process_count(),
    }


def cpu() -> dict[str, Any]:
    """Name, family, widest instruction set and cores: on a CPU they can change the last bits.

    `family` are the family's and the model's number on x86: virtual machines hide the rest of the
    name, and an "AMD EPYC" of family 25 (Zen 3 and 4) differs in speed from one of 26 (Zen 5).
    """
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""

    def field(name: str) -> str:
        found = re.search(rf"^(?:{name})\s*: (.*)$", text, re.MULTILINE)
        return found[1] if found else ""

    numbers = [found for found in (field("cpu family"), field("model")) if found]
    present = field("flags|Features").split()
    widest = next((name for name, flag in INSTRUCTION_SETS if flag in present), None)
    return {
        "model": field("model name") or platform.processor() or platform.machine(),
        "family": ".".join(numbers) or None,
        "instructions": widest or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
    }


def git(directory: Path) -> dict[str, Any] | None:
    """Commit, whether tracked files differ from it, and the origin; None outside a repository."""
    commit = _git(directory, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(directory, "status", "--porcelain", "--untracked-files=no")
    origin = _git(directory, "config", "--get", "remote.origin.url")
    return {
        "commit": commit,
        "dirty": None if changes is None else bool(changes),
        "origin": _without_secrets(origin) if origin else None,
    }


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            # The repository's own settings may name a program to run as file monitor.
            ["git", "-c", "core.fsmonitor=false", "-C", str(directory), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _without_secrets(url: str) -> str:
    """A remote's address without user, password or query.

    Everything up to the last @ goes: a password may itself hold a slash or an @.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, rest = "", url
    return scheme + mark + re.split(r"[?#]", rest.rpartition("@")[2])[0]
