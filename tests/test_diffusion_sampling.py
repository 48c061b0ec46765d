"""Samplers against Gaussian mixtures in closed form: order, distribution, guidance, inversion."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixtures import Mixture
from processes import PROCESSES, every_process

from deeplearn.errors import UsageError
from deeplearn.processes import (
    DDPM,
    Cosine,
    RectifiedFlow,
    VarianceExploding,
    karras_levels,
    uniform_levels,
)
from deeplearn.sampling.diffusion import (
    DDIM,
    SAMPLERS,
    Heun,
    Inversion,
)
from deeplearn.sampling.guidance import guided, inpainting, noise_between

LINE = Mixture(((-0.6,), (0.8,)), (0.5, 0.4), (0.4, 0.6))
PLANE = Mixture(((-1.0, 0.5), (1.0, 0.0), (0.0, -1.0)), (0.3, 0.2, 0.4), (0.3, 0.3, 0.4))
COUNTS = (64, 128, 256, 512)
GRIDS = {
    "ddpm": functools.partial(uniform_levels, 1000.0, 200.0),
    "exploding": functools.partial(karras_levels, 20.0, 0.1, clean=False),
    "flow": functools.partial(uniform_levels, 0.9, 0.1),
}


def start(process, key, shape):
    """The noise that sampling begins with."""
    return process.alpha_sigma(process.noisiest)[1] * jax.random.normal(key, shape)


@pytest.mark.parametrize(
    ("name", "sampler", "order"),
    [
        ("ddpm", "ddim", 0.85),
        ("exploding", "euler", 0.85),
        ("flow", "euler", 0.85),
        *((name, sampler, 1.8) for name in GRIDS for sampler in ("heun", "dpm_solver_2m")),
    ],
)
def test_the_error_falls_with_the_order_of_the_method(name, sampler, order):
    """In x64, against exact transport, over 64 to 512 steps.

    Measured: DDIM and Euler 1.00, Heun 1.99 to 2.01, DPM-Solver++(2M) 2.01 to 2.03.
    """
    process, errors = PROCESSES[name], []
    with jax.enable_x64():
        denoise, probability = LINE.denoiser(process), jnp.linspace(0.05, 0.95, 19)
        for count in COUNTS:
            levels = GRIDS[name](count)
            x, exact = (LINE.quantile(process, probability, at) for at in levels[[0, -1]])
            run = jax.jit(functools.partial(SAMPLERS[sampler], process, denoise))
            errors.append(
                float(jnp.sqrt(jnp.mean((run(x[:, None], levels, None)[:, 0] - exact) ** 2)))
            )
    slope = -np.polyfit(np.log(COUNTS), np.log(errors), 1)[0]
    assert order <= slope <= order + 0.4, (slope, errors)


def mmd(x, y):
    """Squared maximum mean discrepancy of x (N, D) and y (N, D): RBF of width 0.5, unbiased.

    Gretton et al. 2012. The second value says how often, of 200 random splits of both together,
    the discrepancy is as large: small where the two differ.
    """
    both = jnp.concatenate([x, y])
    kernel = jnp.exp(-((both[:, None] - both[None]) ** 2).sum(-1) / (2 * 0.5**2))
    kernel = kernel - jnp.diag(jnp.diag(kernel))
    count = len(x)

    def statistic(order):
        sign = jnp.ones(2 * count).at[order[:count]].set(-1.0)
        # For equal counts, n/(n − 1) times the mean of k within less the mean between.
        return sign @ kernel @ sign / count**2

    orders = jax.vmap(lambda key: jax.random.permutation(key, 2 * count))(
        jax.random.split(jax.random.key(7), 200)
    )
    found = jax.jit(statistic)(jnp.arange(2 * count))
    return found, (jax.jit(jax.vmap(statistic))(orders) >= found).mean()


@pytest.mark.parametrize(
    ("name", "sampler", "steps"),
    [
        ("ddpm", "ddpm", 100),
        ("cosine", "ddpm", 100),
        ("exploding", "ddpm", 60),
        ("flow", "ddpm", 60),
        ("cosine", "ddim", 50),
        ("flow", "euler", 40),
        ("exploding", "heun", 18),
        ("ddpm", "dpm_solver_2m", 30),
        ("flow", "dpm_solver_2m", 20),
    ],
)
def test_samples_have_the_distribution_of_the_data(key, name, sampler, steps):
    """500 samples; 4 steps of the same sampler, or data a tenth too wide, are told apart."""
    process = PROCESSES[name]
    noise_key, data_key, rng = jax.random.split(key, 3)
    x, true = start(process, noise_key, (500, 2)), PLANE.sample(data_key, 500)
    run = jax.jit(functools.partial(SAMPLERS[sampler], process, PLANE.denoiser(process)))
    assert mmd(run(x, process.grid(steps), rng), true)[1] > 0.05


@pytest.mark.parametrize("wrong", ["too_few_steps", "too_wide", "a_component_lost"])
def test_wrong_samples_fail_the_same_test(key, wrong):
    noise_key, data_key = jax.random.split(key)
    true = PLANE.sample(data_key, 500)
    if wrong == "too_few_steps":
        process = VarianceExploding()
        x = start(process, noise_key, (500, 2))
        samples = DDIM()(process, PLANE.denoiser(process), x, process.grid(4))
    elif wrong == "too_wide":
        samples = 1.3 * PLANE.sample(noise_key, 500)
    else:
        samples = Mixture(PLANE.means[1:], PLANE.scales[1:], (0.4, 0.6)).sample(noise_key, 500)
    assert mmd(samples, true)[1] < 0.01


@every_process
@pytest.mark.parametrize("sampler", ["heun", "dpm_solver_2m"])
def test_all_samplers_go_to_the_same_place(key, name, sampler):
    """Second-order methods and 1000 steps of Euler, from the same noise, end within 0.02."""
    process = PROCESSES[name]
    x, denoise = start(process, key, (8, 2)), PLANE.denoiser(process)
    exact = jax.jit(functools.partial(DDIM(), process, denoise))(x, process.grid(1000))
    found = jax.jit(functools.partial(SAMPLERS[sampler], process, denoise))(
        x, process.grid(250), None
    )
    np.testing.assert_allclose(found, exact, atol=0.02)


def test_guidance_of_weight_one_is_the_conditional_model_to_the_bit(key):
    process = Cosine()
    conditional, free = (
        Mixture(((1.0, 0.0),), (0.2,), (1.0,)).denoiser(process),
        PLANE.denoiser(process),
    )
    x, level = start(process, key, (8, 2)), jnp.asarray(300.0)
    np.testing.assert_array_equal(guided(conditional, free, 1.0)(x, level), conditional(x, level))
    far = free(x, level) + 3 * (conditional(x, level) - free(x, level))
    np.testing.assert_allclose(guided(conditional, free, 3.0)(x, level), far, atol=1e-5)
    np.testing.assert_allclose(guided(conditional, free, 0.0)(x, level), free(x, level), atol=1e-5)


@every_process
def test_levels_are_chosen_by_their_noise(name):
    """low < σ/α ≤ high; pure noise, where α is 0, lies above any bound."""
    process = PROCESSES[name]
    levels = process.grid(8)[:-1]
    alpha, sigma = map(np.asarray, process.alpha_sigma(levels[1:]))
    middle = (sigma / alpha)[:-1] / 2 + (sigma / alpha)[1:] / 2
    for low, high, chosen in ((middle[3], middle[0], range(2, 5)), (0, middle[0], range(2, 8))):
        active = jax.jit(noise_between(process, low, high))
        assert [bool(active(level)) for level in levels] == [place in chosen for place in range(8)]
    ends = noise_between(VarianceExploding(), 0.5, 2.0)
    assert [bool(ends(level)) for level in (0.5, 1.0, 2.0)] == [False, True, True]


def test_where_guidance_is_not_active_nothing_is_evaluated_for_it(key):
    process, evaluated = VarianceExploding(), []

    def free(x, level):
        jax.debug.callback(evaluated.append, level)
        return PLANE.denoiser(process)(x, level)

    one = Mixture(((1.0, 0.0),), (0.2,), (1.0,)).denoiser(process)
    x = start(process, key, (8, 2))
    denoise = jax.jit(guided(one, free, 3.0, noise_between(process, 0.5, 2.0)))
    for level in (0.4, 1.0, 3.0):
        wanted = guided(one, PLANE.denoiser(process), 3.0 if level == 1.0 else 1.0)
        np.testing.assert_allclose(denoise(x, level), wanted(x, jnp.asarray(level)), atol=1e-4)
    jax.effects_barrier()
    assert [float(level) for level in evaluated] == [1.0]


@every_process
def test_ddim_inversion_gives_the_input_back(key, name):
    """To 1e-4 over 50 steps in x64."""
    process = PROCESSES[name]
    with jax.enable_x64():
        levels, denoise = process.grid(50), PLANE.denoiser(process)
        if name in ("flow", "cosine"):
            # At their noisiest level α is 0, or nearly: nothing could be inverted.
            levels = uniform_levels(0.96 * process.noisiest, 0.0, 48)
        x = PLANE.sample(key, 16)
        there = jax.jit(functools.partial(Inversion(30), process, denoise))
        back = jax.jit(functools.partial(DDIM(), process, denoise))
        noise = there(x, levels[::-1])
        np.testing.assert_allclose(back(noise, levels), x, atol=1e-4)
        alpha, sigma = process.alpha_sigma(levels[0])
        assert 0.6 < float(jnp.std(noise) / jnp.sqrt(alpha**2 * x.var() + sigma**2)) < 1.4


def test_each_iteration_of_inversion_shrinks_the_error_by_about_the_size_of_the_step(key):
    """In x64: over 25 steps 0.15 to 0.22 times the error of one iteration less, over 50 half that.

    The errors behind 1, 2, 4 and 8 iterations are those to the result of 40.
    """
    process, shrinkage, counts = PROCESSES["flow"], [], np.array([1, 2, 4, 8])
    with jax.enable_x64():
        x, denoise = PLANE.sample(key, 16), PLANE.denoiser(process)
        run = jax.jit(lambda levels, count: Inversion(count)(process, denoise, x, levels))
        for steps in (25, 50):
            levels = GRIDS["flow"](steps)[::-1]
            exact, *found = (run(levels, count) for count in (40, *counts))
            errors = np.array([float(jnp.abs(noise - exact).max()) for noise in found])
            shrinkage.append((errors[1:] / errors[:-1]) ** (1 / np.diff(counts)))
    assert (shrinkage[0] > 0.1).all() and (shrinkage[0] < 0.25).all(), shrinkage
    np.testing.assert_allclose(shrinkage[1], shrinkage[0] / 2, rtol=0.2)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_inpainting_keeps_what_is_known(key, sampler):
    """Of two corners the known coordinate belongs to one: most samples go there, else half."""
    process, corners = DDPM(), Mixture(((-1.0, -1.0), (1.0, 1.0)), (0.3, 0.3), (0.5, 0.5))
    known, mask = jnp.asarray([[1.0, 9.0]]), jnp.asarray([[1, 0]])
    denoise = inpainting(corners.denoiser(process), known, mask)
    run = jax.jit(functools.partial(SAMPLERS[sampler], process, denoise))
    samples = run(start(process, key, (200, 2)), process.grid(50), key)
    np.testing.assert_array_equal(samples[:, 0], 1)
    assert (samples[:, 1] > 0).mean() > 0.7


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_is_one_scan_and_compiles_once(key, sampler):
    """The denoiser is traced as often for 5 steps as for 50; a second call traces nothing."""
    process, traces = VarianceExploding(), []
    inner = PLANE.denoiser(process)

    def denoise(x, level):
        traces.append(level)
        return inner(x, level)

    run = functools.partial(SAMPLERS[sampler], process, denoise)
    x = start(process, key, (3, 2))
    counts = []
    for steps in (5, 50):
        traces.clear()
        jaxpr = jax.make_jaxpr(run)(x, process.grid(steps), key)
        scans = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]
        assert [equation.params["length"] for equation in scans] == [steps]
        counts.append(len(traces))
    assert counts[0] == counts[1] <= 2
    compiled = jax.jit(run)
    compiled(x, process.grid(5), key)
    traces.clear()
    compiled(x + 1, process.grid(5), key)
    assert not traces and compiled._cache_size() == 1


@pytest.mark.parametrize("sampler", [DDIM(), Heun(), SAMPLERS["dpm_solver_2m"]])
def test_the_path_ends_in_the_sample(key, sampler):
    process = RectifiedFlow()
    x, levels = start(process, key, (3, 2)), process.grid(6)
    path = sampler(process, PLANE.denoiser(process), x, levels, path=True)
    assert path.shape == (6, 3, 2)
    np.testing.assert_allclose(
        path[-1], sampler(process, PLANE.denoiser(process), x, levels), rtol=1e-5
    )


def test_noise_needs_an_rng():
    process = DDPM()
    with pytest.raises(UsageError, match="give it an rng"):
        DDIM(eta=1.0)(process, PLANE.denoiser(process), jnp.zeros((1, 2)), process.grid(5))
