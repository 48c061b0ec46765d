"""Forward processes of diffusion: x_t = α_t·x0 + σ_t·ε with ε ~ N(0, I).

A process says what a noise level means. Levels grow with the noise, and level 0 is clean: α = 1,
σ = 0. Its unit is the paper's own:

    DDPM, Cosine        the step, 0 to 1000           Ho et al. 2020, arXiv:2006.11239;
                                                      Nichol & Dhariwal 2021, arXiv:2102.09672
    VarianceExploding   σ itself, up to 80            Karras et al. 2022 (EDM), arXiv:2206.00364
    RectifiedFlow       the time, 0 to 1              Liu et al. 2022, arXiv:2209.03003;
                                                      Lipman et al. 2022, arXiv:2210.02747
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from deeplearn.errors import UsageError
from deeplearn.types import Array

MOST_SIGNAL = 0.01
"""The largest `terminal_snr`: sampling starts from noise alone, as if there were none.

That of DDPM's 1000 steps is 4e-5, and 0.6 of the first 100 of them.
"""


class Process(Protocol):
    """What the loss and the samplers need to know; every method is elementwise in its argument."""

    @property
    def data_scale(self) -> float:
        """The standard deviation of the data x0."""
        ...

    @property
    def noisiest(self) -> float:
        """The level at which sampling starts."""
        ...

    @property
    def terminal_snr(self) -> float:
        """The signal-to-noise ratio there, (α·data_scale/σ)²; known ahead of any computation."""
        ...

    def alpha_sigma(self, level: ArrayLike) -> tuple[Array, Array]:
        """α and σ at a level."""
        ...

    def draw(self, uniform: Array) -> Array:
        """The level to train on at a quantile `uniform` in [0, 1) of their distribution."""
        ...

    def conditioning(self, level: Array) -> Array:
        """The level as a network reads it, a number of order 1."""
        ...

    def grid(self, steps: int) -> np.ndarray:
        """The usual levels of a sampler, falling, (steps + 1,): from `noisiest` to 0."""
        ...


@dataclass(frozen=True)
class _Discrete:
    """α² = Π (1 − β) over the steps so far, σ² = 1 − α²; log α² is linear between steps.

    Raises `UsageError` where a β is outside (0, 1), and where they leave too much of the data.
    """

    steps: int = 1000
    data_scale: float = 1.0

    def __post_init__(self) -> None:
        where = f"process {type(self).__name__}"
        if self.steps < 1:
            raise UsageError(f"{where}: steps={self.steps} must be 1 or more")
        _require_scale(self)
        betas = self.betas()
        if not ((betas > 0) & (betas < 1)).all():
            raise UsageError(
                f"{where}: its β go from {betas.min():.3g} to {betas.max():.3g}, and must be in"
                " (0, 1); mend the fields of its schedule"
            )
        _require_little_signal(self, "raise last_beta, or take more steps")

    def betas(self) -> np.ndarray:
        """β of the steps 1 … `steps`, float64."""
        raise NotImplementedError

    @functools.cached_property
    def _log_alpha_squared(self) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum(np.log1p(-self.betas()))])

    @property
    def noisiest(self) -> float:
        return float(self.steps)

    @property
    def terminal_snr(self) -> float:
        log = float(self._log_alpha_squared[-1])
        return self.data_scale**2 * math.exp(log) / -math.expm1(log)

    def alpha_sigma(self, level: ArrayLike) -> tuple[Array, Array]:
        table = jnp.asarray(self._log_alpha_squared)
        places = jnp.arange(self.steps + 1, dtype=table.dtype)
        log = jnp.interp(jnp.asarray(level, table.dtype), places, table)
        # 1 − exp(log) would lose all digits of a small σ.
        return jnp.exp(log / 2), jnp.sqrt(-jnp.expm1(log))

    def draw(self, uniform: Array) -> Array:
        """The steps 1 … `steps`, each as often."""
        return jnp.minimum(1 + jnp.floor(uniform * self.steps), self.steps)

    def conditioning(self, level: Array) -> Array:
        return level / self.steps

    def grid(self, steps: int) -> np.ndarray:
        """Evenly spaced, rounded to whole steps."""
        if steps > self.steps:
            raise UsageError(
                f"process {type(self).__name__}: {steps} sampling steps, but it has {self.steps};"
                " ask for no more"
            )
        return np.round(uniform_levels(self.noisiest, 0.0, steps))


@dataclass(frozen=True)
class DDPM(_Discrete):
    """β linear in the step, from `first_beta` to `last_beta` (Ho et al. 2020, section 4)."""

    first_beta: float = 1e-4
    last_beta: float = 0.02

    def betas(self) -> np.ndarray:
        return np.linspace(self.first_beta, self.last_beta, self.steps)


@dataclass(frozen=True)
class Cosine(_Discrete):
    """α² follows cos² of the step, shifted by `offset`, with β ≤ 0.999 (Nichol & Dhariwal 2021)."""

    offset: float = 0.008

    def betas(self) -> np.ndarray:
        time = np.arange(self.steps + 1) / self.steps
        squares = np.cos((time + self.offset) / (1 + self.offset) * np.pi / 2) ** 2
        return np.minimum(1 - squares[1:] / squares[:-1], 0.999)


@dataclass(frozen=True)
class VarianceExploding:
    """x_t = x0 + σ·ε, the level being σ; trained where ln σ ~ N(`log_mean`, `log_std`²).

    With prediction "v" this is EDM, preconditioning and weighting included: the network reads
    c_in·x and c_noise = ¼·ln σ, its output is −F, and the plain squared error of F has the weight
    λ(σ) = 1 / c_out² on x0 (Karras et al. 2022, table 1). Levels stay within [`sigma_min`,
    `sigma_max`], beyond which the distribution has 2 draws in 10⁵. Raises `UsageError` for numbers
    that are no such levels, and where `sigma_max` leaves too much of the data.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    data_scale: float = 0.5
    log_mean: float = -1.2
    log_std: float = 1.2

    def __post_init__(self) -> None:
        where = "process VarianceExploding"
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise UsageError(
                f"{where}: sigma_min={self.sigma_min} and sigma_max={self.sigma_max} must be"
                " finite and above 0, the second larger"
            )
        if not (math.isfinite(self.log_mean) and 0 < self.log_std < math.inf):
            raise UsageError(
                f"{where}: log_mean={self.log_mean} and log_std={self.log_std} must be finite, and"
                " the second above 0"
            )
        _require_scale(self)
        _require_little_signal(self, "raise sigma_max")

    @property
    def noisiest(self) -> float:
        return self.sigma_max

    @property
    def terminal_snr(self) -> float:
        return (self.data_scale / self.sigma_max) ** 2

    def alpha_sigma(self, level: ArrayLike) -> tuple[Array, Array]:
        sigma = jnp.asarray(level, float)
        return jnp.ones_like(sigma), sigma

    def draw(self, uniform: Array) -> Array:
        log = self.log_mean + self.log_std * jax.scipy.special.ndtri(uniform)
        return jnp.clip(jnp.exp(log), self.sigma_min, self.sigma_max)

    def conditioning(self, level: Array) -> Array:
        return jnp.log(level) / 4

    def grid(self, steps: int) -> np.ndarray:
        """That of Karras, with ρ = 7."""
        return karras_levels(self.sigma_max, self.sigma_min, steps)


@dataclass(frozen=True)
class RectifiedFlow:
    """x_t = (1 − t)·x0 + t·ε, the level being the time t, uniform in training.

    Noise is at t = 1, as in diffusion; Liu et al. and Lipman et al. count the time backwards.
    """

    data_scale: float = 1.0

    def __post_init__(self) -> None:
        _require_scale(self)

    @property
    def noisiest(self) -> float:
        return 1.0

    @property
    def terminal_snr(self) -> float:
        return 0.0

    def alpha_sigma(self, level: ArrayLike) -> tuple[Array, Array]:
        time = jnp.asarray(level, float)
        return 1 - time, time

    def draw(self, uniform: Array) -> Array:
        return uniform

    def conditioning(self, level: Array) -> Array:
        return level

    def grid(self, steps: int) -> np.ndarray:
        """Evenly spaced."""
        return uniform_levels(1.0, 0.0, steps)


def _require_scale(process: Process) -> None:
    if not 0 < process.data_scale < math.inf:
        raise UsageError(
            f"process {type(process).__name__}: data_scale={process.data_scale} must be finite and"
            " above 0, the standard deviation of the data"
        )


def _require_little_signal(process: Process, advice: str) -> None:
    """Raises `UsageError` where what sampling starts from is far from noise alone."""
    if not process.terminal_snr <= MOST_SIGNAL:
        raise UsageError(
            f"process {type(process).__name__}: the signal-to-noise ratio at its noisiest level,"
            f" {process.noisiest:g}, is {process.terminal_snr:.2g}, and samples start from noise"
            f" alone; {advice}, until it is {MOST_SIGNAL} or less"
        )


def uniform_levels(first: float, last: float, steps: int) -> np.ndarray:
    """Levels (steps + 1,), evenly spaced from `first` to `last`."""
    _require_steps(steps)
    return np.linspace(first, last, steps + 1)


def karras_levels(
    sigma_max: float, sigma_min: float, steps: int, rho: float = 7.0, clean: bool = True
) -> np.ndarray:
    """Levels (steps + 1,) whose ρ-th roots are evenly spaced (Karras et al. 2022, equation 5).

    They fall from `sigma_max` to `sigma_min`, of which the last step goes to 0; without `clean`
    they end at `sigma_min`.
    """
    _require_steps(steps)
    places = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps + (not clean))
    levels = places**rho
    return np.append(levels, 0.0) if clean else levels


def _require_steps(steps: int) -> None:
    if steps < 1:
        raise UsageError(f"sampling: steps={steps} must be 1 or more")


def diffuse(process: Process, x0: Array, noise: Array, level: Array) -> Array:
    """x_t (B, …) of data `x0` and `noise` ε (B, …) at levels (B,)."""
    alpha, sigma = coefficients(process, level, x0)
    return alpha * x0 + sigma * noise


def coefficients(process: Process, level: Array, x: Array) -> tuple[Array, Array]:
    """α and σ at levels (B,), shaped (B, 1, …) to be multiplied with `x` (B, …)."""
    alpha, sigma = process.alpha_sigma(level)
    shape = level.shape + (1,) * (x.ndim - level.ndim)
    return alpha.reshape(shape).astype(x.dtype), sigma.reshape(shape).astype(x.dtype)
