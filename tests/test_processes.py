"""Forward processes: mean and variance of their schedules, and the conversions of predictions."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.processes import (
    DDPM,
    PREDICTIONS,
    Cosine,
    RectifiedFlow,
    VarianceExploding,
    convert,
    diffuse,
    karras_levels,
    noise_of,
    prediction_of,
    require_prediction,
    total_scale,
    x0_of,
)

PROCESSES = {
    "ddpm": DDPM(),
    "cosine": Cosine(),
    "exploding": VarianceExploding(),
    "flow": RectifiedFlow(),
}
every_process = pytest.mark.parametrize("name", PROCESSES)


@every_process
def test_diffused_data_have_the_mean_and_variance_of_the_schedule(key, name):
    """100,000 draws: five standard errors of mean and variance."""
    process, count = PROCESSES[name], 100_000
    for quantile in (0.1, 0.5, 0.9):
        level = process.draw(jnp.full(1, quantile))
        noise = jax.random.normal(key, (count, 1))
        x = diffuse(process, jnp.full((count, 1), 3.0), noise, jnp.repeat(level, count))
        alpha, sigma = (float(value[0]) for value in process.alpha_sigma(level))
        assert abs(float(x.mean()) - 3 * alpha) < 5 * sigma / count**0.5
        assert abs(float(x.var()) / sigma**2 - 1) < 5 * (2 / count) ** 0.5


def test_alpha_and_sigma_are_those_of_the_papers():
    with jax.enable_x64():
        betas = np.linspace(1e-4, 0.02, 1000)
        alpha, sigma = DDPM().alpha_sigma(np.arange(1, 1001))
        np.testing.assert_allclose(alpha**2, np.cumprod(1 - betas), rtol=1e-12)
        np.testing.assert_allclose(sigma**2, 1 - np.cumprod(1 - betas), rtol=1e-9)
        time = np.linspace(0, 1, 1001)
        squares = (
            np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
        )
        alpha, _ = Cosine().alpha_sigma(np.arange(999))
        np.testing.assert_allclose(alpha**2, squares[:999], rtol=1e-9)
        np.testing.assert_array_equal(VarianceExploding().alpha_sigma(7.0), (1, 7))
        np.testing.assert_array_equal(RectifiedFlow().alpha_sigma(0.25), (0.75, 0.25))


@every_process
def test_levels_grow_with_the_noise_from_the_clean_one_on(name):
    process = PROCESSES[name]
    alpha, sigma = process.alpha_sigma(process.grid(50))
    assert (alpha[-1], sigma[-1]) == (1, 0)
    assert process.grid(50)[0] == process.noisiest
    assert (np.diff(sigma / np.maximum(alpha, 1e-9)) < 0).all()
    assert sigma[0] / max(alpha[0], 1e-9) >= 80


@every_process
def test_levels_of_training_are_spread_as_the_process_says(name):
    quantiles = jnp.linspace(0.0, 1 - 1e-6, 10_001)
    level = PROCESSES[name].draw(quantiles)
    assert jnp.isfinite(level).all() and (jnp.diff(level) >= 0).all()
    if name == "exploding":
        inner = np.log(level[500:-500])
        assert abs(inner.mean() + 1.2) < 1e-3
        np.testing.assert_allclose(np.log(level[8413]), -1.2 + 1.2, atol=1e-2)
    elif name == "flow":
        np.testing.assert_array_equal(level, quantiles)
    else:
        assert (float(level[0]), float(level[-1])) == (1, 1000)
        assert (np.unique(level, return_counts=True)[1] >= 10).all()


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


def test_karras_levels_are_those_of_edm():
    """σ_1 and σ_17 of 18 steps by equation 5, worked out by hand."""
    levels = karras_levels(80.0, 0.002, 18)
    assert len(levels) == 19 and levels[-1] == 0
    np.testing.assert_allclose(levels[[0, 1, 17]], [80, 57.585984, 0.002], rtol=1e-6)
    np.testing.assert_allclose(karras_levels(80.0, 0.002, 17, clean=False), levels[:-1])


def test_unknown_words_and_numbers_are_refused():
    with pytest.raises(UsageError, match="unknown prediction 'epsilon'"):
        require_prediction("epsilon", "task Denoising")
    with pytest.raises(UsageError, match="steps=0 must be 1 or more"):
        RectifiedFlow().grid(0)
    with pytest.raises(UsageError, match="2000 sampling steps, but it has 1000"):
        DDPM().grid(2000)
