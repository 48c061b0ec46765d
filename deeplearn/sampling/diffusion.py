"""Samplers of diffusion models: a denoiser and noise → samples, by one `lax.scan` over levels.

All take `denoise(x, level) -> estimate of x0`, whatever it is made of: a network, a closed form,
or another `denoise` that was guided or constrained (`guidance`). Between two levels they differ
only in how they read the probability-flow equation (Song et al. 2021, arXiv:2011.13456),

    dx = x0(x)·dα + ε(x)·dσ     with ε(x) = (x − α·x0(x)) / σ.

They are pure and meant to be compiled by the caller, denoiser and all. `levels` (steps + 1,) fall
from the noisiest; the last may be clean (σ = 0), all others may not. Nothing is divided by α, so
that pure noise (α = 0) is a level like others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from deeplearn.errors import UsageError
from deeplearn.processes import Process
from deeplearn.types import Array

Denoise = Callable[[Array, Array], Array]
"""x_t (B, …) and its level () → the estimate of x0 (B, …)."""

State = tuple[Array, ...]
"""What goes from step to step; the first is x."""


class Step(NamedTuple):
    """A step from one level, with its α and σ, to the next; scalars, or (steps,) of all."""

    number: Array
    level: Array
    alpha: Array
    sigma: Array
    next_level: Array
    next_alpha: Array
    next_sigma: Array

    def noise(self, x: Array, x0: Array) -> Array:
        """ε of x_t and the estimate of x0."""
        return (x - self.alpha * x0) / self.sigma


@dataclass(frozen=True)
class Sampler:
    """A method to go from level to level; a subclass states `advance`, and `start` if it must."""

    def __call__(
        self,
        process: Process,
        denoise: Denoise,
        x: Array,
        levels: ArrayLike,
        rng: Array | None = None,
        *,
        path: bool = False,
    ) -> Array:
        """Noise `x` (B, …) at the first of the levels → a sample (B, …) at the last.

        With `path` the states behind every step (steps, B, …) instead. Raises `UsageError` where
        the method draws noise and there is no `rng`.
        """
        levels = jnp.asarray(levels)
        at = [value.astype(x.dtype) for value in (levels, *process.alpha_sigma(levels))]
        number = jnp.arange(len(levels) - 1)
        steps = Step(number, *(value[:-1] for value in at), *(value[1:] for value in at))

        def body(state: State, step: Step) -> tuple[State, Array | None]:
            state = self.advance(denoise, state, step, rng)
            return state, state[0] if path else None

        last, states = jax.lax.scan(body, self.start(x), steps)
        return last[0] if states is None else states

    def start(self, x: Array) -> State:
        """The state ahead of the first step."""
        return (x,)

    def advance(self, denoise: Denoise, state: State, step: Step, rng: Array | None) -> State:
        """The state behind a step."""
        raise NotImplementedError


@dataclass(frozen=True)
class DDIM(Sampler):
    """DDIM (Song, Meng & Ermon 2021, arXiv:2010.02502, equation 12).

    `eta` is the share of the noise of the exact posterior that is put back at every step. With 0
    nothing is drawn, and x0 and ε stay fixed over a step: in x/α over σ/α that is Euler's method of
    Karras et al. 2022, for rectified flow that of dx/dt = ε − x0. With 1 it is ancestral sampling
    with the posterior's variance β̃ (Ho et al. 2020, algorithm 2), on a part of the levels the
    chain of that part.
    """

    eta: float = 0.0

    def advance(self, denoise: Denoise, state: State, step: Step, rng: Array | None) -> State:
        (x,) = state
        x0 = denoise(x, step.level)
        if not self.eta:
            return (step.next_alpha * x0 + step.next_sigma * step.noise(x, x0),)
        if rng is None:
            raise UsageError(
                f"sampling: DDIM with eta={self.eta} draws noise; give it an rng, or eta=0"
            )
        std = self.eta * posterior_std(step.alpha, step.sigma, step.next_alpha, step.next_sigma)
        kept = jnp.sqrt(jnp.maximum(step.next_sigma**2 - std**2, 0))
        mean = step.next_alpha * x0 + kept * step.noise(x, x0)
        return (mean + std * _draw(rng, step.number, x),)


def posterior_std(alpha: Array, sigma: Array, next_alpha: Array, next_sigma: Array) -> Array:
    """The standard deviation of x_s given x_t and x0, s being the cleaner level.

    For DDPM it is √β̃ (Ho et al. 2020, equation 7); this form holds for any α and σ.
    """
    variance = sigma**2 - (alpha / next_alpha * next_sigma) ** 2
    return next_sigma / sigma * jnp.sqrt(jnp.maximum(variance, 0))


def _draw(rng: Array, number: Array, x: Array) -> Array:
    """The noise of a step, in the shape of x."""
    return jax.random.normal(jax.random.fold_in(rng, number), x.shape, x.dtype)


@dataclass(frozen=True)
class Heun(Sampler):
    """Heun's method, of order 2 (Karras et al. 2022, algorithm 1): two denoisings a step.

    The trapezoid rule for both integrals, ∫x0·dα and ∫ε·dσ; a step to σ = 0 is one of Euler's.
    Nothing is drawn.
    """

    def advance(self, denoise: Denoise, state: State, step: Step, rng: Array | None) -> State:
        (x,) = state
        x0 = denoise(x, step.level)
        noise = step.noise(x, x0)
        guess = step.next_alpha * x0 + step.next_sigma * noise

        def corrected() -> Array:
            next_x0 = denoise(guess, step.next_level)
            next_noise = (guess - step.next_alpha * next_x0) / step.next_sigma
            return (
                x
                + (step.next_alpha - step.alpha) * (x0 + next_x0) / 2
                + (step.next_sigma - step.sigma) * (noise + next_noise) / 2
            )

        return (jax.lax.cond(step.next_sigma > 0, corrected, lambda: guess),)


@dataclass(frozen=True)
class DPMSolver2M(Sampler):
    """DPM-Solver++(2M), of order 2 with one denoising a step (Lu et al. 2022, arXiv:2211.01095).

    x0 is extrapolated in λ = ln(α/σ) from the two last estimates (algorithm 2); the first step
    and a step to σ = 0, where λ is infinite, are of order 1. Nothing is drawn.
    """

    def start(self, x: Array) -> State:
        """x, and in place of the last estimate and its h what the first step does not use."""
        return x, x, jnp.ones((), x.dtype)

    def advance(self, denoise: Denoise, state: State, step: Step, rng: Array | None) -> State:
        x, previous, previous_h = state
        x0 = denoise(x, step.level)
        h = jnp.log(step.next_alpha / step.next_sigma) - jnp.log(step.alpha / step.sigma)
        # From pure noise previous_h is infinite, and the weight 0.
        weight = jnp.where((step.number == 0) | (step.next_sigma == 0), 0, h / (2 * previous_h))
        estimate = x0 + weight * (x0 - previous)
        # −α_s·(e^−h − 1) of the paper without its division by α_t.
        shrink = step.next_sigma / step.sigma
        x = shrink * x + (step.next_alpha - step.alpha * shrink) * estimate
        return x, x0, h


@dataclass(frozen=True)
class Inversion(Sampler):
    """The way back: over levels that rise, the noise from which DDIM (η = 0) comes to `x`.

    A step from level s up to t solves x_s = α_s·x0(x_t) + σ_s·ε(x_t) for x_t by fixed-point
    `iterations`; one of them is the usual inversion, which takes ε from where the step starts
    (Song, Meng & Ermon 2021, section 5.4). The error falls by a factor of about the size of the
    step with each. A level with α = 0 holds nothing of x: end below it.
    """

    iterations: int = 4

    def advance(self, denoise: Denoise, state: State, step: Step, rng: Array | None) -> State:
        (x,) = state
        ratio = step.next_alpha / step.alpha

        def refine(_: Array, guess: Array) -> Array:
            x0 = denoise(guess, step.next_level)
            noise = (guess - step.next_alpha * x0) / step.next_sigma
            return ratio * (x - step.sigma * noise) + step.next_sigma * noise

        return (jax.lax.fori_loop(0, self.iterations, refine, x),)


SAMPLERS: Mapping[str, Sampler] = {
    "ddpm": DDIM(eta=1.0),
    "ddim": DDIM(),
    "euler": DDIM(),
    "heun": Heun(),
    "dpm_solver_2m": DPMSolver2M(),
}
"""The samplers by name; "euler" is DDIM under the name that flows know it by."""
