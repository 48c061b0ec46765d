"""What a family of models needs to be read from Hugging Face directories and written to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict

from deeplearn.interop.config import Config
from deeplearn.interop.table import Tensor
from deeplearn.types import Variables


@dataclass(frozen=True)
class Family:
    """One `model_type` of Hugging Face and our model of it.

    `model` and `config` are inverse up to what only training knows (dropout, initial scales, remat,
    dtype). `example` gives the shape of an input. `prefix` begins the names of all but the heads; a
    bare base model is saved without it. `buffers` matches tensors that hold no parameter. Where
    `tied` gives (copy, original), a copy may be there if it is equal.
    """

    model_type: str
    recognizes: Callable[[nn.Module], bool]
    model: Callable[[Config], nn.Module]
    config: Callable[[Any, Variables], dict[str, Any]]
    example: Callable[[Config], jax.ShapeDtypeStruct]
    tensors: Callable[[Any], list[Tensor]]
    prefix: str = ""
    buffers: str = r"(?!)"
    tied: Mapping[str, str] = field(default_factory=dict)


def shapes(model: nn.Module, example: jax.ShapeDtypeStruct) -> dict[str, tuple[int, ...]]:
    """Path → shape of every leaf of the model's variables."""
    variables = jax.eval_shape(model.init, jax.random.key(0), example)
    return {path: leaf.shape for path, leaf in flatten_dict(variables, sep="/").items()}


def tokens(config: Config) -> jax.ShapeDtypeStruct:
    """A batch of one token, the input of every sequence model."""
    return jax.ShapeDtypeStruct((1, 1), jnp.int32)
