"""The failure of a player of a GAN, as a row of the training metrics of `Adversarial` shows it.

A broken player has numbers that are not finite. A collapsed one has finite numbers and ends all
learning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from deeplearn.tasks.player import DISCRIMINATOR, GENERATOR

COLLAPSED = 1e-6
"""Logits that differ by less, relative to their size, are equal but for rounding."""


def broken_player(metrics: Mapping[str, float]) -> str:
    """The player that a row of training metrics shows to be broken; "" if it shows none.

    Images that are not finite are the generator's fault, whatever they do to the losses of both;
    where the images are finite, a loss is not so only by the discriminator's. Where the losses are
    finite too, it is the player whose gradient is not: the discriminator first, since the
    generator's gradient comes through it.
    """
    if not math.isfinite(metrics["fake_magnitude"]):
        return GENERATOR
    judged = ("generator_loss", "discriminator_loss", "discriminator_gradient_norm")
    if not all(math.isfinite(metrics[name]) for name in judged):
        return DISCRIMINATOR
    return "" if math.isfinite(metrics["generator_gradient_norm"]) else GENERATOR


def collapsed_player(metrics: Mapping[str, float]) -> str:
    """The player that a row of training metrics shows to be collapsed, and how; "" if none.

    A discriminator that gives all images one logit, not 0 as an untrained one may, has no gradient
    to hand on. One that wins has: by all objectives of `adversarial_losses` the generator's loss
    has a slope where its images are recognized.
    """
    size = max(abs(metrics["real_logit"]), abs(metrics["fake_logit"]))
    if metrics["logit_deviation"] < COLLAPSED * size:
        return f"the {DISCRIMINATOR} gives all images one logit, from which nobody learns"
    return ""
