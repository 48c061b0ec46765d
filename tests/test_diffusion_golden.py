"""Every sampler follows the schedulers of diffusers, step by step, to 1e-4.

The paths were made by `golden/make_diffusion.py`, of a model that is a formula.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.predictions import x0_of
from deeplearn.processes import DDPM, VarianceExploding
from deeplearn.sampling import diffusion
from deeplearn.sampling.diffusion import DDIM, SAMPLERS, Heun

GOLDEN = np.load(Path(__file__).parent / "golden" / "diffusion.npz")


def model(x, timestep):
    """The ε of `golden/make_diffusion.py`."""
    return jnp.tanh(x * (0.3 + timestep / 2000)) + 0.1 * jnp.cos(x)


def test_the_version_of_the_peer_is_known():
    assert str(GOLDEN["diffusers"]) == "0.42.1"


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("ddpm", SAMPLERS["ddpm"]),
        ("ddim", SAMPLERS["ddim"]),
        ("ddim_eta", DDIM(eta=0.7)),
        ("dpm_solver_2m", SAMPLERS["dpm_solver_2m"]),
    ],
)
def test_paths_over_whole_steps(name, sampler, key, monkeypatch):
    """Step 0 of diffusers is our level 1; level 0 is clean data."""
    process, path = DDPM(), GOLDEN[f"{name}/path"]
    levels = np.append(GOLDEN[f"{name}/timesteps"] + 1, 0)
    np.testing.assert_array_equal(levels, process.grid(len(levels) - 1))
    if f"{name}/noise" in GOLDEN:
        noise = GOLDEN[f"{name}/noise"]
        monkeypatch.setattr(diffusion, "_draw", lambda rng, number, x: jnp.asarray(noise)[number])
    with jax.enable_x64():

        def denoise(x, level):
            return x0_of("noise", model(x, level - 1), x, *process.alpha_sigma(level))

        found = sampler(process, denoise, jnp.asarray(path[0]), levels, key, path=True)
        # The last step of diffusers draws no noise; ours draws it with the factor 0.
        np.testing.assert_allclose(found, path[1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "sampler"), [("euler", SAMPLERS["euler"]), ("heun", Heun())])
def test_paths_over_sigmas(name, sampler):
    """diffusers runs both on x/α over σ/α, and counts the two halves of a Heun step."""
    path, sigmas = GOLDEN[f"{name}/path"], GOLDEN[f"{name}/sigmas"]
    timesteps = GOLDEN[f"{name}/timesteps"]
    if name == "heun":
        path = np.concatenate([path[:-1:2], path[-1:]])
        sigmas, timesteps = np.append(sigmas[:-1:2], 0), timesteps[::2]
    with jax.enable_x64():
        known = [jnp.asarray(values[::-1], jnp.float64) for values in (sigmas[:-1], timesteps)]

        def denoise(x, sigma):
            return x - sigma * model(x / jnp.sqrt(sigma**2 + 1), jnp.interp(sigma, *known))

        levels = sigmas.astype(np.float64)
        found = sampler(VarianceExploding(), denoise, jnp.asarray(path[0]), levels, path=True)
        np.testing.assert_allclose(found, path[1:], rtol=1e-4, atol=1e-4)
