"""The receipt: a state hash that sees every bit and nothing else, and no secrets."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from deeplearn.errors import DataError, StorageError
from deeplearn.report.receipt import (
    _without_secrets,
    cpu,
    git,
    parameter_count,
    read_json,
    receipt,
    state_sha256,
    write_json,
)


class Moments(NamedTuple):
    count: jax.Array
    mu: dict


@struct.dataclass
class State:
    step: jax.Array
    params: dict
    opt_state: tuple
    rng: jax.Array


def make_state():
    params = {
        "dense": {"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.zeros(4)},
        "half": jnp.ones((2, 2), jnp.bfloat16),
        "empty": jnp.zeros((0, 3)),
    }
    moments = Moments(jnp.int32(7), jax.tree.map(jnp.zeros_like, params))
    return State(jnp.int32(7), params, (moments, ()), jax.random.key(0))


def flipped(leaf, bit):
    """A copy of a leaf with one bit changed."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    data = np.array(jax.random.key_data(leaf) if is_key else leaf)
    data.reshape(-1).view(np.uint8)[bit // 8] ^= 1 << (bit % 8)
    return jax.random.wrap_key_data(jnp.asarray(data)) if is_key else jnp.asarray(data)


def test_the_hash_changes_with_any_bit_of_any_leaf():
    state = make_state()
    leaves, structure = jax.tree.flatten(state)
    hashes = {state_sha256(state)}
    tried = 1
    for index, leaf in enumerate(leaves):
        nbytes = leaf.size * leaf.dtype.itemsize
        for bit in {0, nbytes * 8 - 1, nbytes * 4 + 3} if nbytes else ():
            changed = [*leaves[:index], flipped(leaf, bit), *leaves[index + 1 :]]
            hashes.add(state_sha256(jax.tree.unflatten(structure, changed)))
            tried += 1
    assert tried > 25
    assert len(hashes) == tried


def test_the_hash_sees_paths_dtypes_and_shapes():
    x = np.zeros((2, 3), np.float32)
    states = [
        {"a": x},
        {"b": x},
        {"a": x.reshape(3, 2)},
        {"a": x.reshape(6)},
        {"a": x.astype(np.int32)},
        {"a": x.astype(np.float64)},
        {"a": x[:1], "b": x[1:]},
        {"a": np.float32(0)},
        {"a": np.zeros(1, np.float32)},
        {"a": x, "b": np.zeros(0)},
        {"a": jax.random.key(0)},
        {"a": jax.random.key_data(jax.random.key(0))},
        {"a": jax.random.wrap_key_data(np.zeros(4, np.uint32), impl="rbg")},
        {"a": np.zeros(4, np.uint32)},
    ]
    assert len({state_sha256(state) for state in states}) == len(states)


def test_the_hash_depends_on_no_container_order_or_memory_layout():
    kernel = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = state_sha256({"params": {"a": kernel, "b": np.int32(1)}})
    same = [
        {"params": {"b": np.int32(1), "a": np.asfortranarray(kernel)}},
        {"params": {"b": jnp.int32(1), "a": jnp.asarray(kernel)}},
    ]
    assert {state_sha256(state) for state in same} == {expected}


def test_the_hash_does_not_depend_on_the_type_of_a_container():
    state = make_state()
    names = ("step", "params", "opt_state", "rng")
    as_dict = {name: getattr(state, name) for name in names}
    moments = {"count": state.opt_state[0].count, "mu": state.opt_state[0].mu}
    assert state_sha256(as_dict) == state_sha256(state)
    assert state_sha256(as_dict | {"opt_state": [moments, ()]}) == state_sha256(state)


def test_the_hash_is_a_fixed_function():
    # A stored receipt must stay comparable: whoever changes the format sees it here. The bytes
    # hashed are '["n", "int32", []]', 5 as int32, '["w", "float32", [2, 3]]', 0…5 as fp32.
    state = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.int32(5)}
    assert state_sha256(state) == "c0adbfba3022b725479858c33b88f5c944c18ebf17e7cfaf6a61595c3c7ef430"


SHARDED = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from deeplearn.report.receipt import state_sha256

mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
host = {"w": np.arange(32, dtype=np.float32).reshape(4, 8), "key": jax.random.key(3)}
print(state_sha256(host))
for spec in (P(), P("data"), P(None, "model"), P("model", "data"), P(("data", "model"))):
    placed = {name: jax.device_put(leaf, NamedSharding(mesh, spec if name == "w" else P()))
              for name, leaf in host.items()}
    print(state_sha256(placed))
"""


def test_the_hash_does_not_depend_on_the_sharding(run_on_devices):
    hashes = run_on_devices(4, SHARDED).split()
    assert len(hashes) == 6 and len(set(hashes)) == 1


def test_a_receipt_is_json_and_names_what_was_used(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "do-not-tell")
    monkeypatch.setenv("PJRT_NPROC", "1")
    state = make_state()
    metrics = {"test": {"accuracy": np.float32(0.5), "loss": float("nan")}}
    path = tmp_path / "receipt.json"
    write_json(path, receipt("mlp", state, metrics, 1.23456))
    read = read_json(path)
    assert "do-not-tell" not in path.read_text()
    assert read["environment"]["PJRT_NPROC"] == "1"
    assert read["experiment"] == "mlp" and read["steps"] == 7 and read["seconds"] == 1.235
    assert read["metrics"] == {"test": {"accuracy": 0.5, "loss": None}}
    assert read["parameters"] == parameter_count(state.params) == 12 + 4 + 4
    assert read["state_sha256"] == state_sha256(state)
    assert read["versions"]["jax"] == jax.__version__
    assert read["versions"]["deeplearn"]
    assert read["config"] == {
        "jax_default_prng_impl": "threefry2x32",
        "jax_enable_x64": False,
        "jax_default_matmul_precision": None,
    }
    assert read["devices"]["count"] == jax.device_count()


def test_the_cpu_is_described():
    found = cpu()
    assert found["model"] and found["instructions"]
    assert 1 <= found["usable_cores"] <= found["cores"]
    x86 = platform.machine() in ("x86_64", "AMD64") and Path("/proc/cpuinfo").exists()
    assert re.fullmatch(r"\d+\.\d+", found["family"]) if x86 else found["family"] is None


@pytest.fixture
def repository(tmp_path):
    def run(*arguments):
        subprocess.run(
            ["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True, timeout=20
        )

    run("init", "-q")
    (tmp_path / "a.txt").write_text("a")
    run("add", "a.txt")
    run("-c", "user.name=n", "-c", "user.email=e@x", "commit", "-qm", "first")
    run("remote", "add", "origin", "https://me:sec%40ret@host.example/a/b.git")
    return tmp_path


def test_git_state(repository):
    clean = git(repository)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    assert clean["origin"] == "https://host.example/a/b.git"
    (repository / "new.txt").write_text("untracked files do not count")
    assert git(repository) == clean
    (repository / "a.txt").write_text("b")
    assert git(repository) == clean | {"dirty": True}


def test_without_git_or_repository_there_is_no_git_state(tmp_path, repository, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", "/")
    assert git(Path("/")) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git(repository) is None


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://host/a.git", "https://host/a.git"),
        ("https://token@host/a.git", "https://host/a.git"),
        ("https://u:p@ss/w@rd@host:8443/a.git", "https://host:8443/a.git"),
        ("https://host/a.git?private_token=secret#x", "https://host/a.git"),
        ("git@host:a/b.git", "host:a/b.git"),
        ("ssh://git@host:22/a.git", "ssh://host:22/a.git"),
        ("https::https://u:p@host/a", "https::https://host/a"),
        ("/srv/git/a.git", "/srv/git/a.git"),
    ],
)
def test_userinfo_is_stripped(url, kept):
    assert _without_secrets(url) == kept


def test_json_is_refused_where_it_is_not_json(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert os.listdir(tmp_path) == []
    path.write_text('{"a": 1, "a": 2}')
    with pytest.raises(DataError, match=r"a\.json"):
        read_json(path)
    with pytest.raises(DataError, match="No such file"):
        read_json(tmp_path / "b.json")
    with pytest.raises(StorageError):
        write_json(tmp_path / "gone" / "a.json", {})


def test_json_is_readable_text(tmp_path):
    write_json(tmp_path / "a.json", {"b": "größer", "a": [1, 2.5]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"b": "größer", "a": [1, 2.5]}
    assert "größer" in text and text.endswith("}\n")
