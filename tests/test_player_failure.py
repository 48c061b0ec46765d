"""Which player a row of training metrics shows to be broken or collapsed."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from games import NORMED, game, points

from deeplearn.models.gan import MLPDiscriminator, MLPGenerator
from deeplearn.step import init_state, train_step
from deeplearn.tasks.player_failure import COLLAPSED, collapsed_player


def rows(task, key):
    """The state before the first step of a game, and a function: parameters → metrics of a step."""
    optimizer, batch = optax.identity(), points()
    state = jax.jit(lambda key: init_state(task, optimizer, key, batch))(key)
    step = jax.jit(lambda state: train_step(task, optimizer, state, batch)[1])

    def row(params):
        metrics = step(dataclasses.replace(state, params=params))
        return {name: float(mean.value) for name, mean in metrics.items()}

    return state, row


@pytest.mark.parametrize("task", [game(), NORMED], ids=["plain", "normed"])
def test_a_broken_player_is_named(task, key):
    """Also where BatchNorm of the discriminator mixes broken images into real ones."""
    state, row = rows(task, key)
    assert task.diagnose(row(state.params)) == ""
    for name in task.parts:
        broken = jax.tree.map(lambda p: p * jnp.nan, state.params[name])
        assert task.diagnose(row({**state.params, name: broken})) == name


@jax.custom_vjp
def steep(x):
    """x, with an infinite slope."""
    return x


steep.defvjp(lambda x: (x, None), lambda _, dy: (dy * jnp.inf,))


class SteepGenerator(MLPGenerator):
    def __call__(self, z, label=None, *, train=False):
        return steep(super().__call__(z, label, train=train))


class SteepDiscriminator(MLPDiscriminator):
    def __call__(self, image, label=None, *, train=False):
        return steep(super().__call__(image, label, train=train))


@pytest.mark.parametrize("player", [SteepGenerator((8,)), SteepDiscriminator((8,))])
def test_a_player_whose_gradient_alone_is_not_finite_is_named(player, key):
    """The discriminator's makes that of the generator infinite too, which comes through it."""
    name = "generator" if isinstance(player, SteepGenerator) else "discriminator"
    task = dataclasses.replace(game(), **{name: player})
    state, row = rows(task, key)
    found = row(state.params)
    assert np.isfinite(found["loss"]) and not np.isfinite(found["generator_gradient_norm"])
    assert task.diagnose(found) == name


@pytest.mark.parametrize("logits", [(-4.0, 3.0), (0.5, 4.0)])
def test_a_discriminator_is_collapsed_below_the_bound_only(logits):
    """The bound is relative to the larger of both logits, whatever its sign."""
    row = dict(zip(("real_logit", "fake_logit"), logits, strict=True))
    bound = 4 * COLLAPSED
    assert collapsed_player({**row, "logit_deviation": bound}) == ""
    below = {**row, "logit_deviation": math.nextafter(bound, 0)}
    assert collapsed_player(below).startswith("the discriminator gives all images one logit")


def test_a_discriminator_whose_logits_are_all_0_is_not_collapsed():
    """It is untrained."""
    assert collapsed_player({"real_logit": 0.0, "fake_logit": 0.0, "logit_deviation": 0.0}) == ""


class BlindDiscriminator(MLPDiscriminator):
    logit: float = 0.0

    def __call__(self, image, label=None, *, train=False):
        return 0 * super().__call__(image, label, train=train) + self.logit


@pytest.mark.parametrize(
    ("discriminator", "collapsed"),
    [
        (MLPDiscriminator((8,)), False),
        (BlindDiscriminator((8,)), False),
        (BlindDiscriminator((8,), logit=-3.0), True),
    ],
    ids=["seeing", "all 0", "all -3"],
)
def test_the_metrics_of_a_step_show_a_collapse(discriminator, collapsed, key):
    task = dataclasses.replace(game(), discriminator=discriminator)
    state, row = rows(task, key)
    assert bool(task.collapse(row(state.params))) == collapsed
