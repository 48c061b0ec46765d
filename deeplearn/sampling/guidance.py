"""Denoisers made of denoisers: guided towards a class, or bound to what is known of a sample."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from deeplearn.processes import Process
from deeplearn.sampling.diffusion import Denoise
from deeplearn.types import Array


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


def within(
    process: Process, interval: tuple[float, float], inside: Denoise, outside: Denoise
) -> Denoise:
    """`inside` at the levels with low < σ/α ≤ high, (low, high) = `interval`, `outside` elsewhere.

    Only one of the two is evaluated. Guidance at middle levels alone (Kynkäänniemi et al. 2024,
    arXiv:2404.07724) is made so: at high ones it leaves few of a class's looks, at low ones it
    costs a second evaluation and changes little.
    """
    low, high = interval

    def denoise(x: Array, level: Array) -> Array:
        alpha, sigma = process.alpha_sigma(level)
        # Not divided by α, which is 0 for pure noise; and `high` may be infinite.
        active = (low * alpha < sigma) & (sigma / high <= alpha)
        return jax.lax.cond(active, inside, outside, x, level)

    return denoise


def inpainting(denoise: Denoise, known: Array, mask: Array) -> Denoise:
    """A denoiser that knows x0 where `mask` is 1: `known` and `mask` broadcast to x (B, …).

    The known part of the estimate is replaced, as by the null-space projection of Wang et al.
    2022 (arXiv:2212.00490); a sample at a clean level holds it to the bit. The rest follows it
    only as far as the noisy x shows it, so that its distribution is close to the conditional one
    and not equal to it.
    """
    return lambda x, level: jnp.where(mask > 0, known, denoise(x, level))
