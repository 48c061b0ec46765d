"""What a diffusion model predicts of x_t = α_t·x0 + σ_t·ε, and how one prediction becomes another.

Whatever it is, it is a·x0 + b·ε with known a and b, so that together with x_t either of the two can
be solved for; `PREDICTIONS` holds a and b. All functions are elementwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp

from deeplearn.errors import UsageError, did_you_mean
from deeplearn.types import Array


def total_scale(alpha: Array, sigma: Array, data_scale: float) -> Array:
    """The standard deviation of x_t; its inverse is c_in of EDM."""
    return jnp.sqrt((alpha * data_scale) ** 2 + sigma**2)


def _v(alpha: Array, sigma: Array, data_scale: float) -> tuple[Array | float, Array | float]:
    scale = total_scale(alpha, sigma, data_scale)
    return -sigma / (data_scale * scale), alpha * data_scale / scale


PREDICTIONS: Mapping[str, Callable[[Array, Array, float], tuple[Array | float, Array | float]]] = {
    "noise": lambda alpha, sigma, data_scale: (0.0, 1.0),
    "x0": lambda alpha, sigma, data_scale: (1.0, 0.0),
    "v": _v,
    "velocity": lambda alpha, sigma, data_scale: (-1.0, 1.0),
}
"""Name → (α, σ, standard deviation s of the data) → (a, b) of the prediction a·x0 + b·ε.

"noise" is ε (Ho et al. 2020); "velocity" is ε − x0, the dx/dt of rectified flow. "v" is that of
Salimans & Ho 2022 (arXiv:2202.00512), α·ε − σ·x0, divided by the scale of x_t and for data of
scale s: it has variance 1 at every level and in every process, and is −F of EDM.
"""


def require_prediction(name: str, where: str) -> None:
    """Raises `UsageError` where there is no prediction of that name."""
    if name not in PREDICTIONS:
        raise UsageError(f"{where}: unknown prediction '{name}'{did_you_mean(name, PREDICTIONS)}")


def prediction_of(
    kind: str, x0: Array, noise: Array, alpha: Array, sigma: Array, data_scale: float = 1.0
) -> Array:
    """What a model that predicts `kind` should say of data `x0` and `noise` ε (…)."""
    a, b = PREDICTIONS[kind](alpha, sigma, data_scale)
    return a * x0 + b * noise


def x0_of(
    kind: str, prediction: Array, x: Array, alpha: Array, sigma: Array, data_scale: float = 1.0
) -> Array:
    """The data x0 (…) that a prediction (…) means at `x` = x_t (…)."""
    if kind == "x0":
        return prediction
    a, b = PREDICTIONS[kind](alpha, sigma, data_scale)
    return (b * x - sigma * prediction) / (alpha * b - sigma * a)


def noise_of(
    kind: str, prediction: Array, x: Array, alpha: Array, sigma: Array, data_scale: float = 1.0
) -> Array:
    """The noise ε (…) that a prediction (…) means at `x` = x_t (…)."""
    if kind == "noise":
        return prediction
    a, b = PREDICTIONS[kind](alpha, sigma, data_scale)
    return (alpha * prediction - a * x) / (alpha * b - sigma * a)


def convert(
    source: str,
    target: str,
    prediction: Array,
    x: Array,
    alpha: Array,
    sigma: Array,
    data_scale: float = 1.0,
) -> Array:
    """A prediction (…) of one kind as another, at `x` = x_t (…).

    Not finite where x_t does not hold the answer: ε of x0 where σ = 0, x0 of ε where α = 0.
    """
    known = prediction, x, alpha, sigma, data_scale
    x0, noise = x0_of(source, *known), noise_of(source, *known)
    return prediction_of(target, x0, noise, alpha, sigma, data_scale)
