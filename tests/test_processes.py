"""Forward processes: mean and variance of their schedules, and their levels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import PROCESSES, every_process

from deeplearn.errors import UsageError
from deeplearn.processes import (
    DDPM,
    Cosine,
    RectifiedFlow,
    VarianceExploding,
    diffuse,
    karras_levels,
)


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


def test_karras_levels_are_those_of_edm():
    """σ_1 and σ_17 of 18 steps by equation 5, worked out by hand."""
    levels = karras_levels(80.0, 0.002, 18)
    assert len(levels) == 19 and levels[-1] == 0
    np.testing.assert_allclose(levels[[0, 1, 17]], [80, 57.585984, 0.002], rtol=1e-6)
    np.testing.assert_allclose(karras_levels(80.0, 0.002, 17, clean=False), levels[:-1])


def test_numbers_of_steps_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="steps=0 must be 1 or more"):
        RectifiedFlow().grid(0)
    with pytest.raises(UsageError, match="2000 sampling steps, but it has 1000"):
        DDPM().grid(2000)


@every_process
def test_the_terminal_ratio_is_that_of_the_noisiest_level(name):
    process = PROCESSES[name]
    alpha, sigma = process.alpha_sigma(process.noisiest)
    expected = (float(alpha) * process.data_scale / float(sigma)) ** 2
    assert process.terminal_snr == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("process", "fields", "message"),
    [
        (DDPM, {"steps": 0}, "process DDPM: steps=0 must be 1 or more"),
        (DDPM, {"last_beta": 1.0}, "its β go from 0.0001 to 1, and must be in"),
        (Cosine, {"offset": -0.5}, "process Cosine: its β go from"),
        (DDPM, {"steps": 100}, "noisiest level, 100, is 0.57, .* raise last_beta"),
        (DDPM, {"data_scale": 0.0}, "data_scale=0.0 must be finite and above 0"),
        (RectifiedFlow, {"data_scale": np.nan}, "data_scale=nan must be finite and above 0"),
        (VarianceExploding, {"sigma_min": 0.0}, "sigma_min=0.0 and sigma_max=80.0 must be"),
        (VarianceExploding, {"sigma_min": 90.0}, "sigma_min=90.0 and sigma_max=80.0 must be"),
        (VarianceExploding, {"sigma_max": np.inf}, "must be finite"),
        (VarianceExploding, {"sigma_max": 1.0}, "is 0.25, .* raise sigma_max, until it is 0.01"),
        (VarianceExploding, {"log_std": 0.0}, "log_std=0.0 must be finite"),
    ],
)
def test_a_process_that_cannot_be_sampled_is_refused_in_one_line(process, fields, message):
    with pytest.raises(UsageError, match=message) as caught:
        process(**fields)
    assert "\n" not in str(caught.value)


def test_short_processes_are_possible():
    assert DDPM(steps=100, last_beta=0.2).terminal_snr < 1e-4
    assert Cosine(steps=1).terminal_snr < 0.01
