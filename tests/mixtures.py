"""Gaussian mixtures with everything in closed form: density, denoiser, and the exact transport."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr

from deeplearn.processes import Process
from deeplearn.sampling.diffusion import Denoise
from deeplearn.types import Array


@dataclass(frozen=True)
class Mixture:
    """Isotropic components (C) of standard deviations `scales` around `means` (C, D)."""

    means: tuple[tuple[float, ...], ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]

    def sample(self, key: Array, count: int) -> Array:
        """Draws (count, D)."""
        kind_key, noise_key = jax.random.split(key)
        kind = jax.random.choice(kind_key, len(self.weights), (count,), p=jnp.asarray(self.weights))
        means, scales = jnp.asarray(self.means)[kind], jnp.asarray(self.scales)[kind, None]
        return means + scales * jax.random.normal(noise_key, means.shape)

    def denoiser(self, process: Process) -> Denoise:
        """E[x0 | x_t]: the mean of the components' posterior means by their posterior weights."""
        means, scales, weights = map(jnp.asarray, (self.means, self.scales, self.weights))

        def denoise(x: Array, level: Array) -> Array:
            alpha, sigma = process.alpha_sigma(level)
            variance = (alpha * scales) ** 2 + sigma**2
            away = x[:, None] - alpha * means[None]
            logits = jnp.log(weights) - x.shape[-1] / 2 * jnp.log(variance)
            posterior = jax.nn.softmax(logits[None] - (away**2).sum(-1) / (2 * variance[None]))
            each = means[None] + (alpha * scales**2 / variance)[None, :, None] * away
            return (posterior[..., None] * each).sum(1)

        return denoise

    def cumulative(self, process: Process, x: Array, level: float) -> Array:
        """P(x_t ≤ x) (B,) of a mixture with D = 1."""
        alpha, sigma = process.alpha_sigma(level)
        means, scales = jnp.asarray(self.means)[:, 0], jnp.asarray(self.scales)
        away = (x[:, None] - alpha * means[None]) / jnp.sqrt((alpha * scales) ** 2 + sigma**2)[None]
        return (jnp.asarray(self.weights)[None] * ndtr(away)).sum(1)

    def quantile(self, process: Process, probability: Array, level: float) -> Array:
        """The x_t (B,) below which a `probability` (B,) lies, for D = 1, by bisection.

        In one dimension the probability-flow equation keeps every point's quantile, so this is
        its exact solution from any level to any other.
        """
        low, high = jnp.full_like(probability, -1e3), jnp.full_like(probability, 1e3)

        def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = (low + high) / 2
            below = self.cumulative(process, middle, level) < probability
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        return jax.lax.fori_loop(0, 80, halve, (low, high))[0]
