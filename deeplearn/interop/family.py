"""What a family of models needs to be read from Hugging Face directories and written to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict

from deeplearn.interop.config import Config
from deeplearn.interop.table import Tensor
from deeplearn.types import Variables

NOTHING = r"(?!)"


@dataclass(frozen=True)
class Family:
    """One `model_type` of Hugging Face and our model of it.

    `model` and `config` are inverse up to what only training knows (dropout, initial scales, remat,
    dtype). `example` gives the shape of an input, `method` the one that makes all variables.

    `prefix` begins the names of all but the heads; a bare base model is saved without it. `renamed`
    gives patterns of old names their new form. `passed_over` matches tensors that our model does
    not have and that do not change its outputs; `counters` names those of them that are written all
    the same, as 0. A copy that `tied` maps to its original may be there if it is equal. `optional`
    matches paths of ours that may be absent.
    """

    model_type: str
    recognizes: Callable[[nn.Module], bool]
    model: Callable[[Config], nn.Module]
    config: Callable[[Any, Variables], dict[str, Any]]
    example: Callable[[Config], jax.ShapeDtypeStruct]
    tensors: Callable[[Any], list[Tensor]]
    prefix: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    passed_over: str = NOTHING
    counters: Callable[[Any], list[str]] = lambda model: []
    tied: Mapping[str, str] = field(default_factory=dict)
    optional: str = NOTHING
    method: Callable[[Any], str] = lambda model: "__call__"


def shapes(
    model: nn.Module, example: jax.ShapeDtypeStruct, method: str = "__call__"
) -> dict[str, tuple[int, ...]]:
    """Path → shape of every leaf of the variables that a method of the model makes."""
    init = partial(model.init, method=method)
    variables = jax.eval_shape(init, jax.random.key(0), example)
    return {path: leaf.shape for path, leaf in flatten_dict(variables, sep="/").items()}


def tokens(config: Config) -> jax.ShapeDtypeStruct:
    """A batch of one token, the input of every sequence model."""
    return jax.ShapeDtypeStruct((1, 1), jnp.int32)
