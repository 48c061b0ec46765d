"""Hugging Face directories, read and written without that library: config.json and safetensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from deeplearn.errors import DataError, UsageError, did_you_mean
from deeplearn.interop import gpt2, llama, resnet
from deeplearn.interop.config import Config
from deeplearn.interop.family import Family, shapes
from deeplearn.interop.record import refuse_other_function, require_shapes
from deeplearn.interop.table import read
from deeplearn.interop.tensors import (
    SHARD_BYTES,
    Tensors,
    make_directory,
    read_json,
    write_json,
    write_tensors,
)
from deeplearn.types import Variables

FAMILIES = {module.FAMILY.model_type: module.FAMILY for module in (gpt2, llama, resnet)}
"""The families by the `model_type` of their config.json."""


def from_pretrained(directory: str | Path) -> tuple[nn.Module, Variables]:
    """The model that a Hugging Face directory holds, without dropout, and its variables in fp32.

    Reads one tensor at a time. Raises `DataError` for what is missing or damaged, for a tensor that
    is missing, unknown or of a wrong shape, and for settings that our models cannot express.
    """
    path = Path(directory).expanduser()
    config = Config(read_json(path / "config.json"), str(path / "config.json"))
    model_type = str(config.get("model_type"))
    if model_type not in FAMILIES:
        hint = did_you_mean(model_type, FAMILIES)
        raise DataError(f"{config.where}: model_type={model_type!r} is not known{hint}")
    family = FAMILIES[model_type]
    model = family.model(config)
    example = family.example(config)
    config.finish()
    tensors = family.tensors(model)
    with Tensors(path) as source:
        rename = _rename(family, source, {tensor.name for tensor in tensors})
        return model, read(tensors, shapes(model, example), source, rename)


def save_pretrained(
    directory: str | Path, model: nn.Module, variables: Variables, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes a model as a Hugging Face directory, in fp32, its files of at most `shard_bytes`.

    Raises `UsageError` for a model that no family expresses, variables of another model, and a
    directory that is not empty; `StorageError` where it cannot be written.
    """
    family = family_of(model)
    if family is None:
        raise UsageError(
            f"no Hugging Face family expresses a {type(model).__name__} like this one; known:"
            f" {', '.join(FAMILIES)}"
        )
    values = family.config(model, variables)
    config = Config(values, f"model_type {family.model_type}")
    try:
        refuse_other_function(model, family.model(config))
    except DataError as error:
        raise UsageError(f"the model cannot be written: {error}") from None
    require_shapes(variables, shapes(model, family.example(config)))
    path = make_directory(directory)
    leaves = {
        name: np.asarray(leaf, np.float32)
        for name, leaf in flatten_dict(jax.device_get(dict(variables)), sep="/").items()
    }
    made: Mapping[str, Callable[[], np.ndarray]] = {
        tensor.name: partial(tensor.of, leaves[tensor.path]) for tensor in family.tensors(model)
    }
    write_tensors(path, made, shard_bytes)
    # Last: a directory whose writing was cut short is not taken for a whole one.
    write_json(path / "config.json", values)


def family_of(model: nn.Module) -> Family | None:
    """The family that a model may belong to; None where there is none."""
    return next((family for family in FAMILIES.values() if family.recognizes(model)), None)


def _rename(family: Family, source: Tensors, wanted: set[str]) -> dict[str, str]:
    """The stored names of the parameters → their names in the table.

    Leaves out buffers, and copies of tied tensors once they are seen to be equal.
    """
    bare = family.prefix and not any(name.startswith(family.prefix) for name in source.names)
    heads = {*wanted, *family.tied}
    names = {}
    for stored in source.names:
        name = f"{family.prefix}{stored}" if bare and stored not in heads else stored
        if not re.fullmatch(family.buffers, name):
            names[stored] = name
    for copy, original in family.tied.items():
        if copy in names and copy not in wanted:
            _require_equal(source, copy, {name: stored for stored, name in names.items()}, original)
            del names[copy]
    return names


def _require_equal(source: Tensors, copy: str, stored: dict[str, str], original: str) -> None:
    if original in stored and np.array_equal(source.read(copy), source.read(stored[original])):
        return
    raise DataError(
        f"{source.directory}: tensor '{copy}' differs from '{original}', but config.json says"
        " tie_word_embeddings"
    )
