"""Diffusion against torch: a step of training a U-Net, and drawing samples from it.

Both are EDM on images of Fashion-MNIST's size, with labels; the peer is the same network, written
by hand with torch's own layers. Parameters begin random, so that nothing is 0: from a prediction of
0 the losses of two different networks would agree as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.steps import RATE, THREADS, Step, fastest, torch_step
from benchmarks.timing import Row, compare
from benchmarks.torch_unet import IMAGE, PeerUNet, turned
from deeplearn.models.unet import UNet
from deeplearn.processes import VarianceExploding
from deeplearn.sampling.images import Request
from deeplearn.tasks.denoising import NO_LABEL, SMALLEST, Denoising
from deeplearn.types import PyTree

NETWORK = UNet(channels=32, multipliers=(1, 2, 2), blocks=1, attention=(2,), heads=4, classes=10)
TASK = Denoising(NETWORK, VarianceExploding(), label_dropout=0.1)
ROWS, COMPARED = 64, 20
SAMPLES, STEPS = 16, 50

Draw = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Levels σ (B,), noise (B, C, Y, X) and labels (B,), −1 for none: what a step draws."""


def parameters() -> PyTree:
    """Random ones of the network: around 1 the scales of norms, all others around 0."""
    generator = np.random.default_rng(0)
    x = jax.ShapeDtypeStruct((1, *IMAGE), np.float32)
    level, label = (jax.ShapeDtypeStruct((1,), dtype) for dtype in (np.float32, np.int32))
    shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), x, level, label)["params"]
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            np.float32(path[-1].key == "scale")
            + generator.normal(0, 0.1, leaf.shape).astype(np.float32)
        ),
        shapes,
    )


def denoise(
    model: nn.Module, x: torch.Tensor, sigma: torch.Tensor, label: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The network's −F of x_t at levels σ (B,), and c_skip and c_out (B, 1, 1, 1) of EDM."""
    scale, s = TASK.process.data_scale, sigma[:, None, None, None]
    total = torch.sqrt(scale**2 + s**2)
    output = model(x / total, sigma.log() / 4, label)
    return output, scale**2 / total**2, s * scale / total


class PeerStep:
    """The same step in torch, eager or compiled; takes `draws` first, and then draws its own."""

    def __init__(
        self, params: PyTree, images: np.ndarray, label: np.ndarray, draws: list[Draw], form: str
    ):
        self._model = PeerUNet(NETWORK, params).to(memory_format=torch.channels_last)
        self._x, self._label = turned(images), torch.from_numpy(label).long()
        self._draws = draws
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=RATE, fused=True)
        self._run: Callable = torch.compile(self._loss) if "compile" in form else self._loss

    def _loss(self, sigma: torch.Tensor, noise: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """The squared error of F, whose target is (x0 − c_skip·x) / c_out."""
        x = self._x + sigma[:, None, None, None] * noise
        output, skip, out = denoise(self._model, x, sigma, label)
        return functional.mse_loss(-output, (self._x - skip * x) / out)

    def _draw(self) -> Draw:
        process, size = TASK.process, len(self._x)
        sigma = torch.exp(process.log_mean + process.log_std * torch.randn(size))
        kept = torch.rand(size) >= TASK.label_dropout
        label = torch.where(kept, self._label, NO_LABEL)
        sigma = sigma.clamp(process.sigma_min, process.sigma_max)
        return sigma, torch.randn_like(self._x), label

    def __call__(self) -> float:
        draw = self._draws.pop(0) if self._draws else self._draw()
        return torch_step(self._optimizer, lambda: self._run(*draw))


def sides(form: str, rows: int = ROWS) -> tuple[Step, PeerStep]:
    """Our step and torch's, of the same parameters, images, labels and first draws.

    Their first 20 losses must agree.
    """
    generator = np.random.default_rng(0)
    images = generator.uniform(-1, 1, (rows, *IMAGE)).astype(np.float32)
    label = generator.integers(0, NETWORK.classes, rows).astype(np.int32)
    ours = Step(TASK, {"x": images, "label": label}, params=parameters())
    draws = [_draws(ours, step, label) for step in range(COMPARED)]
    peer = PeerStep(ours.params, images, label, draws, form)
    losses = [[side() for _ in range(COMPARED)] for side in (ours, peer)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    return ours, peer


def _draws(ours: Step, step: int, label: np.ndarray) -> Draw:
    """What the task draws in a step, from three of the step's four keys."""
    level, noise, withheld, _ = jax.random.split(jax.random.fold_in(ours.key, step), 4)
    rows = (len(label),)
    sigma = TASK.process.draw(jax.random.uniform(level, rows, minval=SMALLEST))
    hidden = np.array(jax.random.bernoulli(withheld, TASK.label_dropout, rows))
    return (
        torch.from_numpy(np.array(sigma)),
        turned(np.array(jax.random.normal(noise, (*rows, *IMAGE)))),
        torch.from_numpy(np.where(hidden, NO_LABEL, label)).long(),
    )


def step_race(name: str, goal: float) -> Row:
    """A step with Adam against torch's fastest form."""
    work = f"U-Net ch{NETWORK.channels} step, 28×28 B{ROWS}"
    return fastest(name, work, sides, ("channels_last", "compile channels_last"), goal)


def samplers() -> tuple[Callable[[], np.ndarray], Callable[[], torch.Tensor]]:
    """Euler's method here and in torch, of the same parameters, noise and labels.

    The samples must agree.
    """
    params = parameters()
    noise = np.random.default_rng(1).normal(size=(SAMPLES, *IMAGE)).astype(np.float32)
    request = Request(SAMPLES, tuple(range(NETWORK.classes)), IMAGE, sampler="euler", steps=STEPS)
    model = PeerUNet(NETWORK, params).to(memory_format=torch.channels_last).eval()
    levels = TASK.process.grid(STEPS).astype(np.float32).tolist()
    first, classes = turned(noise), torch.from_numpy(request.class_of()).long()
    variables, latents = jax.device_put(({"params": params}, noise))

    def ours() -> np.ndarray:
        return jax.device_get(TASK.draw(variables, latents, request, jax.random.key(0)))

    @torch.no_grad()
    def peer() -> torch.Tensor:
        x = levels[0] * first
        for sigma, lower in zip(levels, levels[1:], strict=False):
            output, skip, out = denoise(model, x, torch.full((SAMPLES,), sigma), classes)
            x0 = skip * x - out * output
            x = x0 + lower / sigma * (x - x0)
        return x

    np.testing.assert_allclose(turned(ours()), peer(), rtol=1e-2, atol=1e-3)
    return ours, peer


def sampler_race(name: str, goal: float) -> Row:
    """Drawing images: ours one compiled loop, torch's eager and without gradients."""
    torch.set_num_threads(THREADS)
    work = f"U-Net ch{NETWORK.channels} Euler, {STEPS} steps, 28×28 B{SAMPLES}"
    return compare(name, work, "torch channels_last", *samplers(), goal, rounds=5)


def rows() -> Iterator[tuple[str, Callable[[], Row]]]:
    """Every measurement of this suite by its id."""
    yield "DIF-1", lambda: step_race("DIF-1", 0.85)
    yield "DIF-2", lambda: sampler_race("DIF-2", 1.5)
