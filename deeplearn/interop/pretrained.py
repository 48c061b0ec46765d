"""Hugging Face directories, read and written without that library: config.json and safetensors."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from deeplearn.errors import DataError, UsageError, did_you_mean
from deeplearn.experiment import record
from deeplearn.interop import bert, gpt2, llama, mamba, resnet
from deeplearn.interop.comparison import first_difference, require_shapes
from deeplearn.interop.config import Config
from deeplearn.interop.family import Family, shapes
from deeplearn.interop.table import read_variables
from deeplearn.interop.tensors import (
    SHARD_BYTES,
    Tensors,
    make_directory,
    read_json,
    write_json,
    write_tensors,
)
from deeplearn.types import Variables

FAMILIES = {
    family.model_type: family
    for family in (
        bert.FAMILY,
        gpt2.FAMILY,
        llama.LLAMA,
        llama.MISTRAL,
        mamba.MAMBA,
        mamba.MAMBA2,
        resnet.FAMILY,
    )
}
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
    try:
        model = family.model(config)
        example = family.example(config)
        config.finish()
        leaves = shapes(model, example, family.method(model))
    except UsageError as error:
        raise DataError(f"{config.where}: {error}") from None
    tensors = family.tensors(model)
    with Tensors(path) as source:
        names = _names(family, source, {tensor.name for tensor in tensors})
        held = {tensor.path for tensor in tensors if tensor.name in names}
        optional = {leaf for leaf in leaves if re.fullmatch(family.optional, leaf)}
        # All of them or none: a part that is there in part is damaged.
        absent = set() if optional & held else optional
        tensors = [tensor for tensor in tensors if tensor.path not in absent]
        kept = {leaf: shape for leaf, shape in leaves.items() if leaf not in absent}
        return model, read_variables(tensors, kept, source, names)


def save_pretrained(
    directory: str | Path, model: nn.Module, variables: Variables, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes a model as a Hugging Face directory, in fp32, its files of at most `shard_bytes`.

    Raises `UsageError` for a model that no family expresses, variables of another model, and a
    directory that is not empty; `StorageError` where it cannot be written.
    """
    family, values = expressed(model, variables)
    config = Config(values, f"model_type {family.model_type}")
    leaves = flatten_dict(dict(variables), sep="/")
    expected = shapes(model, family.example(config), family.method(model))
    optional = {path for path in expected if re.fullmatch(family.optional, path)}
    absent = optional - set(leaves)
    require_shapes(leaves, {path: x for path, x in expected.items() if path not in absent})
    target = make_directory(directory)
    fetched = {path: np.asarray(leaf, np.float32) for path, leaf in leaves.items()}
    made: dict[str, Callable[[], np.ndarray]] = {
        tensor.name: partial(tensor.of, fetched[tensor.path])
        for tensor in family.tensors(model)
        if tensor.path not in absent
    }
    made |= dict.fromkeys(family.counters(model), partial(np.zeros, (), np.int64))
    write_tensors(target, made, shard_bytes)
    # Last: a directory whose writing was cut short is not taken for a whole one.
    write_json(target / "config.json", values)


def expressed(model: nn.Module, variables: Variables) -> tuple[Family, dict[str, Any]]:
    """The family that a model belongs to, and the content of its config.json.

    Raises `UsageError` where there is none, or where a field of the model would be lost.
    """
    family = next((family for family in FAMILIES.values() if family.recognizes(model)), None)
    if family is None:
        raise UsageError(
            f"no Hugging Face family expresses a {type(model).__name__} like this one; known:"
            f" {', '.join(FAMILIES)}"
        )
    values = family.config(model, variables)
    config = Config(values, f"model_type {family.model_type}")
    try:
        found = first_difference(record(model), record(family.model(config)), set())
    except DataError as error:
        raise UsageError(f"the model cannot be written: {error}") from None
    if found is not None:
        field, ours, theirs = found
        raise UsageError(
            f"the model cannot be written: {field}={ours} has no counterpart, only {theirs}"
        )
    return family, values


def _names(family: Family, source: Tensors, wanted: set[str]) -> dict[str, str]:
    """The names of a table → those under which the tensors are stored.

    Leaves out what is passed over, and copies of tied tensors once they are seen to be equal.
    """
    bare = family.prefix and not any(name.startswith(family.prefix) for name in source.names)
    heads = {*wanted, *family.tied}
    names = {}
    for stored in source.names:
        name = stored
        for old, new in family.renamed.items():
            name = re.sub(old, new, name)
        if bare and name not in heads:
            name = f"{family.prefix}{name}"
        if not re.fullmatch(family.passed_over, name) or name in wanted:
            names[name] = stored
    for copy in [copy for copy in family.tied if copy in names and copy not in wanted]:
        original = family.tied[copy]
        stored = names.pop(copy)
        if original in names:
            if np.array_equal(source.read(stored), source.read(names[original])):
                continue
            raise DataError(
                f"{source.directory}: tensor '{stored}' differs from '{names[original]}', but"
                " config.json says tie_word_embeddings"
            )
    return names
