"""Predictions of diffusion models: the conversions, and those of the papers."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import PROCESSES, every_process

from deeplearn.errors import UsageError
from deeplearn.predictions import (
    PREDICTIONS,
    convert,
    noise_of,
    prediction_of,
    require_prediction,
    total_scale,
    x0_of,
)
from deeplearn.processes import DDPM, VarianceExploding, diffuse


@every_process
@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(PREDICTIONS, 2)))
def test_predictions_are_interchangeable(key, name, source, target):
    """In x64 to 1e-5 at every level where x_t holds both x0 and ε."""
    process, scale = PROCESSES[name], PROCESSES[name].data_scale
    with jax.enable_x64():
        x0, noise = jax.random.normal(key, (2, 9, 3), jnp.float64)
        level = process.draw(jnp.linspace(0.01, 0.99, 9))[:, None]
        alpha, sigma = process.alpha_sigma(level)
        x = diffuse(process, x0, noise, level[:, 0])
        made = {kind: prediction_of(kind, x0, noise, alpha, sigma, scale) for kind in PREDICTIONS}
        known = x, alpha, sigma, scale
        np.testing.assert_allclose(x0_of(source, made[source], *known), x0, atol=1e-5)
        np.testing.assert_allclose(noise_of(source, made[source], *known), noise, atol=1e-5)
        converted = convert(source, target, made[source], *known)
        np.testing.assert_allclose(converted, made[target], rtol=1e-5, atol=1e-5)


def test_v_is_that_of_salimans_and_ho(key):
    x0, noise = jax.random.normal(key, (2, 5, 1))
    alpha, sigma = DDPM().alpha_sigma(jnp.linspace(1, 1000, 5)[:, None])
    v = prediction_of("v", x0, noise, alpha, sigma)
    np.testing.assert_allclose(v, alpha * noise - sigma * x0, atol=1e-5)
    x = alpha * x0 + sigma * noise
    np.testing.assert_allclose(x0_of("v", v, x, alpha, sigma), alpha * x - sigma * v, atol=1e-5)


def test_v_with_an_exploding_variance_is_edm(key):
    """c_skip, c_out and c_in of Karras et al. 2022, table 1, with F = −v."""
    process = VarianceExploding()
    sigma = jnp.asarray([0.002, 0.5, 80.0])[:, None]
    alpha, sigma = process.alpha_sigma(sigma)
    x, network = jax.random.normal(key, (2, 3, 2))
    scale = np.sqrt(np.asarray(sigma) ** 2 + 0.25)
    c_skip, c_out = 0.25 / scale**2, 0.5 * np.asarray(sigma) / scale
    expected = c_skip * np.asarray(x) + c_out * np.asarray(network)
    np.testing.assert_allclose(x0_of("v", -network, x, alpha, sigma, 0.5), expected, rtol=1e-5)
    np.testing.assert_allclose(total_scale(alpha, sigma, 0.5), scale, rtol=1e-6)
    np.testing.assert_allclose(process.conditioning(sigma), np.log(sigma) / 4, rtol=1e-6)


def test_an_unknown_prediction_is_refused():
    with pytest.raises(UsageError, match="unknown prediction 'epsilon'"):
        require_prediction("epsilon", "task Denoising")
