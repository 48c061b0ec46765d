"""Losses of the two players of a GAN per example, and gradient penalties of a critic.

Every loss takes the logits of the real and of the fake images, (B,) each, and returns fp32 (B,);
the task averages, and decides where gradients stop. Large logits mean "real". σ is the sigmoid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from deeplearn.errors import UsageError
from deeplearn.types import Array

Loss = Callable[[Array, Array], Array]
Critic = Callable[[Array], Array]
"""Images (B, …) → logits (B,), each row of which depends on its own image only."""


class AdversarialLoss(NamedTuple):
    """What the two players minimize, as functions of (real logits, fake logits)."""

    generator: Loss
    discriminator: Loss


def non_saturating_generator(real: Array, fake: Array) -> Array:
    """−log σ(fake) (Goodfellow et al., 2014, arXiv:1406.2661, section 3)."""
    return jax.nn.softplus(-_logits(real, fake)[1])


def non_saturating_discriminator(real: Array, fake: Array) -> Array:
    """−log σ(real) − log(1 − σ(fake)) (Goodfellow et al., 2014, arXiv:1406.2661)."""
    real, fake = _logits(real, fake)
    return jax.nn.softplus(-real) + jax.nn.softplus(fake)


def hinge_generator(real: Array, fake: Array) -> Array:
    """−fake (Lim & Ye, 2017, arXiv:1705.02894)."""
    return -_logits(real, fake)[1]


def hinge_discriminator(real: Array, fake: Array) -> Array:
    """max(0, 1 − real) + max(0, 1 + fake) (Lim & Ye, 2017, arXiv:1705.02894)."""
    real, fake = _logits(real, fake)
    return jax.nn.relu(1.0 - real) + jax.nn.relu(1.0 + fake)


def wasserstein_generator(real: Array, fake: Array) -> Array:
    """−fake (Arjovsky et al., 2017, arXiv:1701.07875)."""
    return -_logits(real, fake)[1]


def wasserstein_discriminator(real: Array, fake: Array) -> Array:
    """fake − real (Arjovsky et al., 2017, arXiv:1701.07875): needs a bounded gradient."""
    real, fake = _logits(real, fake)
    return fake - real


def relativistic_generator(real: Array, fake: Array) -> Array:
    """−log σ(fake − real) of pairs (Jolicoeur-Martineau, 2018, arXiv:1807.00734)."""
    real, fake = _logits(real, fake)
    return jax.nn.softplus(real - fake)


def relativistic_discriminator(real: Array, fake: Array) -> Array:
    """−log σ(real − fake) of pairs; with R1 and R2 it is R3GAN (Huang et al., 2024)."""
    real, fake = _logits(real, fake)
    return jax.nn.softplus(fake - real)


LOSSES: Mapping[str, AdversarialLoss] = {
    "non_saturating": AdversarialLoss(non_saturating_generator, non_saturating_discriminator),
    "hinge": AdversarialLoss(hinge_generator, hinge_discriminator),
    "wasserstein": AdversarialLoss(wasserstein_generator, wasserstein_discriminator),
    "relativistic": AdversarialLoss(relativistic_generator, relativistic_discriminator),
}
"""The losses by name."""


def gradient_penalty(
    critic: Critic,
    real: Array,
    fake: Array,
    rng: Array,
    *,
    r1: float = 0.0,
    r2: float = 0.0,
    interpolated: float = 0.0,
) -> Array | None:
    """The sum fp32 (B,) of the penalties below, each times its weight; None without a weight.

    Images are (B, …). `r1` weighs the zero-centered penalty at real images, `r2` that at fake ones,
    `interpolated` the one between them, at places drawn by `rng`.
    """
    terms = []
    if r1:
        terms.append(r1 * zero_centered_penalty(critic, real))
    if r2:
        terms.append(r2 * zero_centered_penalty(critic, fake))
    if interpolated:
        mixing = jax.random.uniform(rng, (len(real),))
        terms.append(interpolated * interpolated_penalty(critic, real, fake, mixing))
    return sum(terms[1:], start=terms[0]) if terms else None


def zero_centered_penalty(critic: Critic, images: Array) -> Array:
    """½·‖∇ critic‖² at each image, fp32 (B,): R1 at real images, R2 at fake ones.

    Mescheder et al., 2018 (arXiv:1801.04406), equation 9; the factor γ is the caller's.
    """
    return 0.5 * _squared_gradient_norm(critic, images)


def interpolated_penalty(critic: Critic, real: Array, fake: Array, mixing: Array) -> Array:
    """(‖∇ critic‖ − 1)² at mixing·real + (1 − mixing)·fake, fp32 (B,).

    `mixing` (B,) is uniform in [0, 1). Gulrajani et al., 2017 (arXiv:1704.00028), algorithm 1; the
    factor λ is the caller's.
    """
    mixing = jnp.broadcast_to(mixing.reshape(-1, *(1,) * (real.ndim - 1)), real.shape)
    squares = _squared_gradient_norm(critic, mixing * real + (1.0 - mixing) * fake)
    # The root has no derivative at 0, where a fresh critic may well be.
    return jnp.square(jnp.sqrt(squares + 1e-12) - 1.0)


def _squared_gradient_norm(critic: Critic, images: Array) -> Array:
    # Rows are independent, so the gradient of the sum holds the gradient of every row.
    gradient = jax.grad(lambda images: critic(images).astype(jnp.float32).sum())(images)
    return jnp.square(gradient.astype(jnp.float32)).reshape(len(images), -1).sum(-1)


def _logits(real: Array, fake: Array) -> tuple[Array, Array]:
    """Both in fp32; (B, 1) against (B,) would broadcast to (B, B) without a word."""
    if real.shape != fake.shape or real.ndim != 1:
        raise UsageError(
            f"adversarial loss: real logits have shape {real.shape}, fake ones {fake.shape}; a"
            " discriminator returns (B,), and there are as many fakes as real images"
        )
    return real.astype(jnp.float32), fake.astype(jnp.float32)
