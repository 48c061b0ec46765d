"""Activations by name, and the kernel initializer that suits each."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
from flax import linen as nn

from deeplearn.errors import UsageError, did_you_mean
from deeplearn.types import Array

# Name → (function, initializer). He et al. 2015 (arXiv:1502.01852) keeps the variance through
# functions that halve it; Glorot & Bengio 2010 through those that are the identity near 0.
_TABLE: dict[str, tuple[Callable[[Array], Array], str]] = {
    "elu": (jax.nn.elu, "he"),
    "gelu": (jax.nn.gelu, "he"),  # By its approximation with tanh, as GPT-2 has it.
    "gelu_exact": (functools.partial(jax.nn.gelu, approximate=False), "he"),
    "identity": (lambda x: x, "glorot"),
    "leaky_relu": (jax.nn.leaky_relu, "he"),
    "relu": (jax.nn.relu, "he"),
    "sigmoid": (jax.nn.sigmoid, "glorot"),
    "silu": (jax.nn.silu, "he"),
    "softplus": (jax.nn.softplus, "he"),
    "tanh": (jax.nn.tanh, "glorot"),
}


def _entry(name: str) -> tuple[Callable[[Array], Array], str]:
    if name not in _TABLE:
        hint = did_you_mean(str(name), _TABLE)
        raise UsageError(f"activation={name!r} is not known{hint}")
    return _TABLE[name]


def activation(name: str) -> Callable[[Array], Array]:
    """The elementwise function of that name; `UsageError` where there is none."""
    return _entry(name)[0]


def kernel_initializer(name: str, variance: float = 1.0) -> nn.initializers.Initializer:
    """The initializer of a kernel next to the activation `name`, its variance times `variance`.

    He normal (fan in) or Glorot uniform (mean of the fans), by the activation.
    """
    if _entry(name)[1] == "he":
        return nn.initializers.variance_scaling(2.0 * variance, "fan_in", "truncated_normal")
    return nn.initializers.variance_scaling(variance, "fan_avg", "uniform")
