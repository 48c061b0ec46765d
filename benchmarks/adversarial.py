"""Adversarial training against torch: a whole step of DCGAN, both players at once.

Torch pads a convolution of stride 2 alike on both sides, ours at the end; so the peer works on
images that are turned by half a turn, with kernels turned as well, which is the same mathematics
at no cost to either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from benchmarks.models import assign
from benchmarks.steps import Step, fastest, torch_step
from benchmarks.timing import Row
from deeplearn.models.dcgan import DCGANDiscriminator, DCGANGenerator
from deeplearn.optimizers import Adam
from deeplearn.players import Players
from deeplearn.tasks.adversarial import Adversarial
from deeplearn.types import PyTree

PLAYER = Adam(learning_rate=2e-4, b1=0.5)
ROWS, LATENT, COMPARED = 64, 100, 20
CHANNELS = (128, 64)
"""Those of the generator; the discriminator has them the other way round."""


class PeerGenerator(nn.Module):
    """z (B, latent) → images (B, C, Y, X), of 28×28 pixels and two stages."""

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        first, second = channels
        self.project = nn.Linear(LATENT, 7 * 7 * first, bias=False)
        self.norm0, self.norm1 = nn.BatchNorm2d(first), nn.BatchNorm2d(second)
        self.conv0 = nn.Conv2d(first, second, 5, padding=2, bias=False)
        self.conv1 = nn.Conv2d(second, 1, 5, padding=2)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.project(z).unflatten(1, (7, 7, -1)).permute(0, 3, 1, 2)
        for norm, conv in ((self.norm0, self.conv0), (self.norm1, self.conv1)):
            x = conv(functional.interpolate(functional.relu(norm(x)), scale_factor=2))
        return torch.tanh(x)


class PeerDiscriminator(nn.Module):
    """Images (B, C, Y, X) → logits (B,)."""

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        first, second = channels
        self.conv0 = nn.Conv2d(1, first, 5, stride=2, padding=2)
        self.conv1 = nn.Conv2d(first, second, 5, stride=2, padding=2, bias=False)
        self.norm1 = nn.BatchNorm2d(second)
        self.head = nn.Linear(7 * 7 * second, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = functional.leaky_relu(self.conv0(image), 0.2)
        x = functional.leaky_relu(self.norm1(self.conv1(x)), 0.2)
        return self.head(x.permute(0, 2, 3, 1).flatten(1))[:, 0]


def copy_player(params: PyTree, player: nn.Module) -> None:
    """Our parameters of one player into torch's, all that has places turned by half a turn."""
    for name, layer in player.named_children():
        ours = params["head"]["output"] if name == "head" else params[name]
        weight = ours["scale"] if "scale" in ours else turned(ours["kernel"])
        assign(layer.weight, weight)
        if layer.bias is not None:
            assign(layer.bias, ours["bias"])


def turned(kernel: np.ndarray) -> np.ndarray:
    """A kernel of ours as torch's: of a convolution, to an image of 7×7 or from one."""
    if kernel.ndim == 4:
        return kernel[::-1, ::-1].transpose(3, 2, 0, 1)
    if len(kernel) == LATENT:
        places = kernel.reshape(LATENT, 7, 7, -1)[:, ::-1, ::-1]
    else:
        places = kernel.reshape(7, 7, -1, 1)[::-1, ::-1]
    return places.reshape(kernel.shape).T


class PeerStep:
    """The same step in torch, eager or compiled; takes `latents` first, and then draws its own."""

    def __init__(self, params: PyTree, images: np.ndarray, latents: list[np.ndarray], form: str):
        self._generator = PeerGenerator(CHANNELS)
        self._discriminator = PeerDiscriminator(CHANNELS[::-1])
        copy_player(params["generator"], self._generator)
        copy_player(params["discriminator"], self._discriminator)
        for player in (self._generator, self._discriminator):
            player.to(memory_format=torch.channels_last)
        x = torch.from_numpy(images[:, ::-1, ::-1].transpose(0, 3, 1, 2).copy())
        self._real = x.to(memory_format=torch.channels_last)
        self._latents = [torch.from_numpy(np.array(z)) for z in latents]
        parameters = [*self._generator.parameters(), *self._discriminator.parameters()]
        self._optimizer = torch.optim.Adam(
            parameters, lr=PLAYER.learning_rate, betas=(PLAYER.b1, PLAYER.b2), fused=True
        )
        self._run: Callable = torch.compile(self._loss) if "compile" in form else self._loss

    def _loss(self, z: torch.Tensor) -> torch.Tensor:
        """Both players' losses; frozen parameters judge for the generator."""
        fake = self._generator(z)
        logits = self._discriminator(torch.cat([self._real, fake.detach()]))
        real, judged_fake = logits.chunk(2)
        frozen = {name: p.detach() for name, p in self._discriminator.named_parameters()}
        # Its BatchNorm sees the real images beside, as ours does.
        beside = torch.cat([self._real, fake])
        _, judged = functional_call(self._discriminator, frozen, (beside,)).chunk(2)
        discriminator = functional.softplus(-real) + functional.softplus(judged_fake)
        return (functional.softplus(-judged) + discriminator).mean()

    def __call__(self) -> float:
        z = self._latents.pop(0) if self._latents else torch.randn(len(self._real), LATENT)
        return torch_step(self._optimizer, lambda: self._run(z))


def sides(form: str, rows: int = ROWS) -> tuple[Step, PeerStep]:
    """Our step and torch's, of the same parameters, images and first latents.

    Their first 20 losses must agree.
    """
    images = np.random.default_rng(0).uniform(-1, 1, (rows, 28, 28, 1)).astype(np.float32)
    task = Adversarial(
        DCGANGenerator(channels=CHANNELS), DCGANDiscriminator(CHANNELS[::-1]), latent=LATENT
    )
    ours = Step(task, {"x": images}, Players(PLAYER, PLAYER))
    latents = [_latents(ours, step, rows) for step in range(COMPARED)]
    peer = PeerStep(ours.params, images, latents, form)
    losses = [[side() for _ in range(COMPARED)] for side in (ours, peer)]
    np.testing.assert_allclose(*losses, rtol=1e-2)
    return ours, peer


def _latents(ours: Step, step: int, rows: int) -> np.ndarray:
    """The z that the task draws in a step: from the first of the step's four keys."""
    key = jax.random.split(jax.random.fold_in(ours.key, step), 4)[0]
    return np.array(jax.random.normal(key, (rows, LATENT)))


def step_race(name: str, goal: float) -> Row:
    """A step of both players with Adam against torch's fastest form."""
    work = f"DCGAN step of both players, 28×28 B{ROWS}"
    return fastest(name, work, sides, ("channels_last", "compile channels_last"), goal)


def rows() -> Iterator[tuple[str, Callable[[], Row]]]:
    """Every measurement of this suite by its id."""
    yield "GAN-1", lambda: step_race("GAN-1", 0.9)
