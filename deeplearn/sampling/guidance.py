"""Denoisers made of denoisers: guided towards a class, or bound to what is known of a sample."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from deeplearn.processes import Process
from deeplearn.sampling.diffusion import Denoise
from deeplearn.types import Array

Active = Callable[[Array], Array]
"""A level () → whether something is done there, bool ()."""


def guided(
    conditional: Denoise, unconditional: Denoise, weight: float, active: Active | None = None
) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598).

    The estimate is conditional + (`weight` − 1)·(conditional − unconditional). Weight 1 is the
    conditional one to the bit, 0 the unconditional one, and above 1 exaggerates the condition.
    Levels that are not `active` have the conditional one, and the other is not evaluated there.
    """
    if weight == 1:
        return conditional

    def denoise(x: Array, level: Array) -> Array:
        estimate = conditional(x, level)

        def beyond() -> Array:
            return estimate + (weight - 1) * (estimate - unconditional(x, level))

        if active is None:
            return beyond()
        return jax.lax.cond(active(level), beyond, lambda: estimate)

    return denoise


def noise_between(process: Process, low: float, high: float) -> Active:
    """The levels with low < σ/α ≤ high: for guidance at middle ones alone.

    At high ones it takes away variety, at low ones it changes little (Kynkäänniemi et al. 2024,
    arXiv:2404.07724).
    """

    def active(level: Array) -> Array:
        alpha, sigma = process.alpha_sigma(level)
        # Not divided by α, which is 0 for pure noise.
        return (low * alpha < sigma) & (sigma <= high * alpha)

    return active


def inpainting(denoise: Denoise, known: Array, mask: Array) -> Denoise:
    """A denoiser that knows x0 where `mask` is 1: `known` and `mask` broadcast to x (B, …).

    The known part of the estimate is replaced, as by the null-space projection of Wang et al.
    2022 (arXiv:2212.00490); a sample at a clean level holds it to the bit. The rest follows it
    only as far as the noisy x shows it, so that its distribution is close to the conditional one
    and not equal to it.
    """
    return lambda x, level: jnp.where(mask > 0, known, denoise(x, level))
