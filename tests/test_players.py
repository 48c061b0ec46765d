"""The optimizer of two players: cadence, clipping and moments of their own, one average."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deeplearn.data.memory import Arrays
from deeplearn.ema import find_ema
from deeplearn.errors import UsageError
from deeplearn.experiment import Experiment
from deeplearn.models.gan import MLPDiscriminator, MLPGenerator
from deeplearn.optimizers import SGD, Adam, AdamW
from deeplearn.overrides import override
from deeplearn.players import Players
from deeplearn.schedules import Linear
from deeplearn.step import evaluation_variables, init_state, train_step
from deeplearn.tasks.adversarial import Adversarial

NAMES = ("generator", "discriminator")
PARAMS = {name: {"kernel": jnp.arange(1.0, 5.0).reshape(2, 2)} for name in NAMES}
TASK = Adversarial(MLPGenerator((4,)), MLPDiscriminator((4,)), latent=2)


def walk(players, steps, gradients=PARAMS):
    """The parameters and the optimizer state before the first and after every step."""
    transform = players.build(steps)
    update = jax.jit(transform.update)
    params, state = PARAMS, transform.init(PARAMS)
    history = [(params, state)]
    for _ in range(steps):
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        history.append((params, state))
    return history


def moments(state, name):
    """The leaves of what Adam keeps of a player."""
    is_adam = lambda node: isinstance(node, optax.ScaleByAdamState)  # noqa: E731
    inner = state[0].inner_states[name]
    (found,) = [node for node in jax.tree.leaves(inner, is_leaf=is_adam) if is_adam(node)]
    return jax.tree.leaves(found)


def moved(one, two):
    return [
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    ]


@pytest.mark.parametrize("alternating", [False, True])
@pytest.mark.parametrize("n_critic", [1, 2, 3])
def test_cadence_is_exact(n_critic, alternating):
    history = walk(Players(n_critic=n_critic, alternating=alternating), steps=8)
    cycle = n_critic + alternating
    for step, ((old, before), (new, after)) in enumerate(
        zip(history[:-1], history[1:], strict=True)
    ):
        turn = step % cycle == cycle - 1
        for name, moves in zip(NAMES, (turn, not (turn and alternating)), strict=True):
            assert moved(old[name], new[name]) == [moves], (step, name)
            changes = moved(moments(before, name), moments(after, name))
            assert all(changes) if moves else not any(changes), (step, name)


def test_each_player_has_its_own_optimizer_and_clipping():
    rate = {"learning_rate": 1.0, "momentum": 0.0}
    players = Players(SGD(clip_norm=0.5, **rate), SGD(**rate))
    (old, _), (new, _) = walk(players, steps=1)
    change = jax.tree.map(lambda a, b: a - b, old, new)
    assert float(optax.tree.norm(change["generator"])) == pytest.approx(0.5)
    np.testing.assert_allclose(change["discriminator"]["kernel"], PARAMS["generator"]["kernel"])


def test_a_schedule_counts_the_moves_of_its_player():
    players = Players(
        SGD(learning_rate=1.0, momentum=0.0, schedule=Linear()),
        SGD(learning_rate=1.0, momentum=0.0, schedule=Linear()),
        n_critic=2,
    )
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    history = walk(players, steps=8, gradients=ones)
    places = {
        name: np.asarray([params[name]["kernel"][0, 0] for params, _ in history]) for name in NAMES
    }
    rates = players.learning_rate_at(jnp.arange(8), 8)
    assert rates.shape == (2, 8)
    turns = np.arange(8) % 2
    np.testing.assert_allclose(-np.diff(places["generator"]), rates[0] * turns, atol=1e-6)
    np.testing.assert_allclose(-np.diff(places["discriminator"]), rates[1], atol=1e-6)
    assert float(rates[0, 1]) == 1.0 and float(rates[1, 0]) == 1.0


def test_the_average_is_of_both_players_and_moves_in_every_step():
    history = walk(Players(n_critic=2, ema_decay=0.5), steps=3)
    average = PARAMS
    # The rates of `parameter_ema` at the first updates.
    for rate, (params, state) in zip((1, 5 / 6, 5 / 7), history[1:], strict=True):
        move = functools.partial(lambda rate, ema, p: (1 - rate) * ema + rate * p, rate)
        average = jax.tree.map(move, average, params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), find_ema(state), average
        )


def test_frozen_parameters_of_a_player_rest():
    players = Players(generator=Adam(frozen=("generator/kernel",)))
    (old, _), (new, _) = walk(players, steps=1)
    assert moved(old, new) == [True, False]  # in the order of the names


def test_the_one_train_step_serves_both(key):
    batch = {"x": jax.random.normal(key, (4, 2))}
    optimizer = Players(n_critic=2, ema_decay=0.9).build(4)
    state = jax.jit(lambda key: init_state(TASK, optimizer, key, batch))(key)
    step = jax.jit(lambda state: train_step(TASK, optimizer, state, batch))
    one, _ = step(state)
    two, metrics = step(one)
    assert not any(moved(state.params["generator"], one.params["generator"]))
    assert all(moved(state.params["discriminator"], one.params["discriminator"]))
    assert all(moved(one.params["generator"], two.params["generator"]))
    assert {"loss", "generator_loss", "discriminator_loss"} <= set(metrics)
    assert any(moved(evaluation_variables(two)["params"], two.params))


def test_overrides_reach_each_player():
    data = Arrays({"x": np.zeros((8, 2))})
    experiment = Experiment("players", TASK, data, Players(), steps=10)
    changed = override(
        experiment,
        ["optimizer.generator.learning_rate=1e-4", "optimizer.discriminator=AdamW"],
    ).optimizer
    assert changed.generator == Adam(learning_rate=1e-4)
    assert isinstance(changed.discriminator, AdamW)
    assert override(experiment, ["optimizer=Adam"]).optimizer == Adam()
    override(experiment, ["optimizer.n_critic=5", "optimizer.ema_decay=0.99"]).validate()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"n_critic": 0}, "n_critic = 0"),
        ({"n_critic": 11}, "every 11 steps"),
        ({"ema_decay": 1.0}, "set optimizer.ema_decay"),
        ({"generator": Adam(ema_decay=0.9)}, "generator.ema_decay"),
        ({"discriminator": Adam(b1=-1.0)}, "set optimizer.discriminator.b1"),
    ],
)
def test_bad_fields_are_refused(changes, text):
    with pytest.raises(UsageError, match=text):
        dataclasses.replace(Players(), **changes).validate(10)


def test_parameters_of_other_tasks_are_refused():
    with pytest.raises(UsageError, match="task Adversarial"):
        Players().build(10).init({"dense": jnp.zeros(3)})
