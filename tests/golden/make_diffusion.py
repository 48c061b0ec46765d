"""Makes the golden paths of diffusers' schedulers beside this file.

Not run by the tests. With torch and diffusers at hand, from the root of the repository:

    python tests/golden/make_diffusion.py              (writes tests/golden/diffusion.npz)

The model is a formula, ε(x, t) = tanh(x·(0.3 + t/2000)) + 0.1·cos(x). Of every scheduler the file
holds the timesteps, the σ where it has them, the noise it drew, and x before and after each step.
"""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import diffusers
import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)

SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "linear"}
SCHEDULE |= {"beta_start": 1e-4, "beta_end": 0.02}
ALIGNED = {**SCHEDULE, "timestep_spacing": "trailing"}
SCHEDULERS = {
    "ddpm": DDPMScheduler(**ALIGNED, variance_type="fixed_small", clip_sample=False),
    "ddim": DDIMScheduler(**ALIGNED, clip_sample=False, set_alpha_to_one=True),
    "ddim_eta": DDIMScheduler(**ALIGNED, clip_sample=False, set_alpha_to_one=True),
    "euler": EulerDiscreteScheduler(**ALIGNED),
    "heun": HeunDiscreteScheduler(**ALIGNED),
    "dpm_solver_2m": DPMSolverMultistepScheduler(
        **ALIGNED, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
    ),
}
STEPS = 20


def model(x: np.ndarray, timestep: float) -> np.ndarray:
    return np.tanh(x * (0.3 + timestep / 2000)) + 0.1 * np.cos(x)


def follow(name: str) -> dict[str, np.ndarray]:
    """The path of a scheduler from the same noise."""
    scheduler, generator = SCHEDULERS[name], np.random.default_rng(0)
    scheduler.set_timesteps(STEPS)
    x = generator.normal(size=(2, 3))
    x = torch.tensor(x * float(scheduler.init_noise_sigma))
    path, noises = [x.numpy()], []

    def draw(shape, **_):
        noises.append(generator.normal(size=tuple(shape)))
        return torch.tensor(noises[-1])

    extra = {"eta": 0.7} if name == "ddim_eta" else {}
    module = type(scheduler).__module__
    with mock.patch(f"{module}.randn_tensor", draw, create=True):
        for timestep in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, timestep)
            noise = torch.tensor(model(scaled.numpy(), float(timestep)))
            x = scheduler.step(noise, timestep, x, **extra).prev_sample
            path.append(x.numpy())
    found = {"path": np.stack(path), "timesteps": scheduler.timesteps.numpy()}
    if hasattr(scheduler, "sigmas"):
        found["sigmas"] = scheduler.sigmas.numpy()
    if name in ("ddpm", "ddim_eta"):
        found["noise"] = np.stack(noises)
    return found


def main() -> None:
    arrays = {
        f"{name}/{field}": value for name in SCHEDULERS for field, value in follow(name).items()
    }
    path = Path(__file__).resolve().with_name("diffusion.npz")
    np.savez_compressed(path, diffusers=diffusers.__version__, **arrays)
    for name, value in arrays.items():
        print(name, value.shape, value.dtype)


if __name__ == "__main__":
    main()
