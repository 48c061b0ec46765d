"""Samplers of diffusion models: functions of a function, each one `lax.scan` over noise levels.

All take `denoise(x, level) -> estimate of x0`, whatever it is made of: a network, a closed form,
or another `denoise` that was guided or constrained. Between two levels they differ only in how
they read the probability-flow equation (Song et al. 2021, arXiv:2011.13456),

    dx = x0(x)·dα + ε(x)·dσ     with ε(x) = (x − α·x0(x)) / σ.

They are pure and meant to be compiled by the caller, denoiser and all. `levels` (steps + 1,) fall
from the noisiest; the last may be clean (σ = 0), all others may not. Nothing is divided by α, so
that pure noise (α = 0) is a level like others. With `path=True` a sampler returns the states
behind every step (steps, B, …), instead of the last (B, …).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from deeplearn.errors import UsageError, did_you_mean
from deeplearn.processes import Process
from deeplearn.types import Array

Denoise = Callable[[Array, Array], Array]
"""x_t (B, …) and its level () → the estimate of x0 (B, …)."""


class Sampler(Protocol):
    """Noise `x` (B, …) at the first of the levels → a sample (B, …) at the last."""

    def __call__(
        self, process: Process, denoise: Denoise, x: Array, levels: ArrayLike, rng: Array
    ) -> Array: ...


class _Step(NamedTuple):
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


State = tuple[Array, ...]
"""What goes from step to step; the first is x."""


def _scan(
    advance: Callable[[State, _Step], State],
    process: Process,
    state: State,
    levels: ArrayLike,
    path: bool,
) -> Array:
    dtype = state[0].dtype
    levels = jnp.asarray(levels)
    at = [value.astype(dtype) for value in (levels, *process.alpha_sigma(levels))]
    number = jnp.arange(len(levels) - 1)
    steps = _Step(number, *(value[:-1] for value in at), *(value[1:] for value in at))

    def body(state: State, step: _Step) -> tuple[State, Array | None]:
        state = advance(state, step)
        return state, state[0] if path else None

    (x, *_), states = jax.lax.scan(body, state, steps)
    return x if states is None else states


def ddim(
    process: Process,
    denoise: Denoise,
    x: Array,
    levels: ArrayLike,
    rng: Array | None = None,
    *,
    eta: float = 0.0,
    path: bool = False,
) -> Array:
    """DDIM (Song, Meng & Ermon 2021, arXiv:2010.02502, equation 12): (B, …) → (B, …).

    `eta` is the share of the noise of the exact posterior that is put back at every step: 0 is
    deterministic, 1 ancestral sampling. Raises `UsageError` where that needs an `rng`.
    """
    if eta and rng is None:
        raise UsageError(f"sampling: DDIM with eta={eta} draws noise; give it an rng, or eta=0")

    def advance(state: State, step: _Step) -> State:
        (x,) = state
        x0 = denoise(x, step.level)
        if rng is None or not eta:
            return (step.next_alpha * x0 + step.next_sigma * step.noise(x, x0),)
        std = eta * posterior_std(step.alpha, step.sigma, step.next_alpha, step.next_sigma)
        kept = jnp.sqrt(jnp.maximum(step.next_sigma**2 - std**2, 0))
        mean = step.next_alpha * x0 + kept * step.noise(x, x0)
        return (mean + std * _draw(rng, step.number, x),)

    return _scan(advance, process, (x,), levels, path)


def posterior_std(alpha: Array, sigma: Array, next_alpha: Array, next_sigma: Array) -> Array:
    """The standard deviation of x_s given x_t and x0, s being the cleaner level.

    For DDPM it is √β̃ (Ho et al. 2020, equation 7); this form holds for any α and σ.
    """
    variance = sigma**2 - (alpha / next_alpha * next_sigma) ** 2
    return next_sigma / sigma * jnp.sqrt(jnp.maximum(variance, 0))


def _draw(rng: Array, number: Array, x: Array) -> Array:
    """The noise of a step, in the shape of x."""
    return jax.random.normal(jax.random.fold_in(rng, number), x.shape, x.dtype)


def ddpm(
    process: Process,
    denoise: Denoise,
    x: Array,
    levels: ArrayLike,
    rng: Array,
    *,
    path: bool = False,
) -> Array:
    """Ancestral sampling with the posterior's variance β̃ (Ho et al. 2020, algorithm 2).

    On a part of the levels it is the chain of that part, which is DDIM with η = 1.
    """
    return ddim(process, denoise, x, levels, rng, eta=1.0, path=path)


def euler(
    process: Process,
    denoise: Denoise,
    x: Array,
    levels: ArrayLike,
    rng: Array | None = None,
    *,
    path: bool = False,
) -> Array:
    """Euler's method, of order 1; nothing is drawn.

    x0 and ε stay fixed over a step. In x/α over σ/α that is Euler's method of Karras et al. 2022,
    for rectified flow that of dx/dt = ε − x0, and in any process it is DDIM with η = 0.
    """
    return ddim(process, denoise, x, levels, path=path)


def heun(
    process: Process,
    denoise: Denoise,
    x: Array,
    levels: ArrayLike,
    rng: Array | None = None,
    *,
    path: bool = False,
) -> Array:
    """Heun's method, of order 2 (Karras et al. 2022, algorithm 1): two denoisings a step.

    The trapezoid rule for both integrals, ∫x0·dα and ∫ε·dσ; a step to σ = 0 is one of Euler's.
    Nothing is drawn.
    """

    def advance(state: State, step: _Step) -> State:
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

    return _scan(advance, process, (x,), levels, path)


def dpm_solver_2m(
    process: Process,
    denoise: Denoise,
    x: Array,
    levels: ArrayLike,
    rng: Array | None = None,
    *,
    path: bool = False,
) -> Array:
    """DPM-Solver++(2M), of order 2 with one denoising a step (Lu et al. 2022, arXiv:2211.01095).

    x0 is extrapolated in λ = ln(α/σ) from the two last estimates (algorithm 2); the first step
    and a step to σ = 0, where λ is infinite, are of order 1. Nothing is drawn.
    """

    def advance(state: State, step: _Step) -> State:
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

    return _scan(advance, process, (x, x, jnp.ones((), x.dtype)), levels, path)


SAMPLERS: Mapping[str, Sampler] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    "dpm_solver_2m": dpm_solver_2m,
}


def guided(conditional: Denoise, unconditional: Denoise, weight: float) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598).

    The estimate is conditional + (`weight` − 1)·(conditional − unconditional). Weight 1 is the
    conditional one to the bit, 0 the unconditional one, and above 1 exaggerates the condition.
    """
    if weight == 1:
        return conditional

    def denoise(x: Array, level: Array) -> Array:
        estimate = conditional(x, level)
        return estimate + (weight - 1) * (estimate - unconditional(x, level))

    return denoise


def inpainting(denoise: Denoise, known: Array, mask: Array) -> Denoise:
    """A denoiser that knows x0 where `mask` is 1: `known` and `mask` broadcast to x (B, …).

    The known part of the estimate is replaced, as by the null-space projection of Wang et al.
    2022 (arXiv:2212.00490); a sample at a clean level holds it to the bit. The rest follows it
    only as far as the noisy x shows it, so that its distribution is close to the conditional one
    and not equal to it.
    """
    return lambda x, level: jnp.where(mask > 0, known, denoise(x, level))


def ddim_inversion(
    process: Process,
    denoise: Denoise,
    x: Array,
    levels: ArrayLike,
    *,
    iterations: int = 4,
    path: bool = False,
) -> Array:
    """The noise at `levels[0]` from which DDIM (η = 0) over `levels` comes to `x` (B, …).

    A step from level s up to t solves x_s = α_s·x0(x_t) + σ_s·ε(x_t) for x_t by fixed-point
    `iterations`; one of them is the usual inversion, which takes ε from where the step starts
    (Song, Meng & Ermon 2021, section 5.4). The error falls by a factor of about the size of the
    step with each. A level with α = 0 holds nothing of x: begin below it.
    """

    def advance(state: State, step: _Step) -> State:
        (x,) = state
        ratio = step.next_alpha / step.alpha

        def refine(_: Array, guess: Array) -> Array:
            x0 = denoise(guess, step.next_level)
            noise = (guess - step.next_alpha * x0) / step.next_sigma
            return ratio * (x - step.sigma * noise) + step.next_sigma * noise

        return (jax.lax.fori_loop(0, iterations, refine, x),)

    return _scan(advance, process, (x,), jnp.flip(jnp.asarray(levels)), path)


@dataclass(frozen=True)
class Request:
    """What a task is asked to draw: `count` samples of one `shape` (no axis B), by one sampler.

    `steps` levels of the process's own grid. `label` is the class, None for any; a `guidance`
    other than 1 needs one.
    """

    shape: tuple[int, ...]
    count: int = 16
    sampler: str = "dpm_solver_2m"
    steps: int = 20
    label: int | None = None
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            hint = did_you_mean(self.sampler, SAMPLERS)
            raise UsageError(f"sampling: unknown sampler '{self.sampler}'{hint}")
        for name in ("count", "steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"sampling: {name}={getattr(self, name)} must be 1 or more")
        if self.guidance != 1 and self.label is None:
            raise UsageError(f"sampling: guidance={self.guidance} needs a label to guide towards")
