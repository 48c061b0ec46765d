"""Directories of our own naming, for every model: each leaf of the variables under its path.

`model.safetensors` (or shards) holds the leaves as they are, stacked and fused, and `model.json`
the record of the model, which says what they belong to, and the type of each leaf. Reading needs no
table and no transposing.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from deeplearn.errors import DataError, UsageError
from deeplearn.experiment import record
from deeplearn.interop.comparison import LAYOUT, first_difference
from deeplearn.interop.tensors import (
    SHARD_BYTES,
    Tensors,
    make_directory,
    read_json,
    write_json,
    write_tensors,
)
from deeplearn.types import Array, Variables

RECORD = "model.json"


def save_variables(
    directory: str | Path, model: nn.Module, variables: Variables, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes the variables of a model, its files of at most `shard_bytes`.

    Raises `UsageError` for a directory that is not empty, `StorageError` for one that cannot be
    written.
    """
    leaves = flatten_dict(dict(variables), sep="/")
    target = make_directory(directory)
    write_tensors(
        target, {path: partial(np.asarray, leaf) for path, leaf in leaves.items()}, shard_bytes
    )
    # Last: a directory whose writing was cut short is not taken for a whole one.
    kinds = {path: _kind(leaf) for path, leaf in leaves.items()}
    write_json(target / RECORD, {"model": record(model), "leaves": kinds})


def load_variables(directory: str | Path, model: nn.Module) -> Variables:
    """The variables that were saved for this model, read one tensor at a time.

    Raises `UsageError` where they were saved for a model that computes something else, `DataError`
    for files that are missing or damaged, and names a leaf that is missing, new or of another type.
    """
    path = Path(directory).expanduser()
    stored = read_json(path / RECORD)
    found = first_difference(stored.get("model", {}), record(model), LAYOUT)
    if found is not None:
        field, there, here = found
        raise UsageError(f"{path} holds another model: {field}={there} there, {here} here")
    with Tensors(path) as source:
        leaves = {name: jnp.asarray(source.read(name)) for name in source.names}
    wanted, held = stored.get("leaves", {}), {name: _kind(leaf) for name, leaf in leaves.items()}
    for name in sorted(wanted.keys() | held.keys()):
        if held.get(name) != wanted.get(name):
            raise DataError(
                f"{path}: tensor '{name}' is {held.get(name, 'missing')}, and {RECORD} has"
                f" {wanted.get(name, 'none')}; write the directory anew"
            )
    return unflatten_dict(leaves, sep="/")


def _kind(leaf: Array) -> str:
    """Dtype and shape as text."""
    return f"{leaf.dtype}{list(leaf.shape)}"
