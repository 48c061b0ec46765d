"""Optimizers: they converge, trace, decay and freeze what they say."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from descent import GRADIENTS, PARAMS, descend, one_update, quadratic

from deeplearn import optimizers
from deeplearn.ema import find_ema
from deeplearn.errors import UsageError
from deeplearn.optimizers import (
    LAMB,
    SGD,
    Adam,
    AdamW,
    Lion,
    Muon,
    Optimizer,
    RMSProp,
)
from deeplearn.schedules import Constant, Cosine, Linear

ALL = [
    SGD(learning_rate=0.05),
    SGD(learning_rate=0.05, nesterov=True),
    RMSProp(learning_rate=0.02),
    Adam(learning_rate=0.05),
    AdamW(learning_rate=0.05),
    Lion(learning_rate=0.02),
    LAMB(learning_rate=0.05),
    Muon(learning_rate=0.05),
]
IDS = [f"{type(o).__name__}{'-nesterov' * getattr(o, 'nesterov', False)}" for o in ALL]
every_optimizer = pytest.mark.parametrize("optimizer", ALL, ids=IDS)


def trajectory(transform, gradient, steps=3):
    """The parameters after `steps` steps from `PARAMS` with gradient(params)."""
    params, state = PARAMS, transform.init(PARAMS)
    update = jax.jit(transform.update)
    for _ in range(steps):
        updates, state = update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
    return params


def rosenbrock(params):
    x, y = params["w"][0], params["w"][1]
    return jnp.square(1.0 - x) + 10.0 * jnp.square(y - jnp.square(x))


def test_every_optimizer_is_in_the_table():
    named = {
        value
        for value in vars(optimizers).values()
        if inspect.isclass(value) and issubclass(value, Optimizer) and value is not Optimizer
    }
    assert named == {type(optimizer) for optimizer in ALL}


@every_optimizer
@pytest.mark.parametrize(
    ("loss", "start"), [(quadratic, [-1.0, 2.0, 0.5]), (rosenbrock, [-0.5, 0.5])]
)
def test_converges(optimizer, loss, start):
    optimizer = replace(optimizer, schedule=Linear(), weight_decay=0.0)
    if loss is rosenbrock and isinstance(optimizer, SGD):
        optimizer = replace(optimizer, learning_rate=0.003)
    params = {"w": jnp.asarray(start)}
    end, _, _ = descend(optimizer, loss, params, steps=1000)
    assert loss(end) < 1e-2 * loss(params)


@every_optimizer
def test_every_number_can_be_traced(optimizer):
    optimizer = replace(
        optimizer,
        weight_decay=0.1,
        clip_norm=1.0,
        clip_block_norm=0.5,
        ema_decay=0.9,
        schedule=Cosine(warmup=1),
    )
    numbers = {
        field.name: getattr(optimizer, field.name)
        for field in fields(optimizer)
        if isinstance(getattr(optimizer, field.name), float)
    }
    assert len(numbers) >= 5

    @jax.jit
    def train(numbers):
        transform = replace(optimizer, **numbers).build(10)
        params, state = PARAMS, transform.init(PARAMS)
        for _ in range(2):
            updates, state = transform.update(GRADIENTS, state, params)
            params = optax.apply_updates(params, updates)
        return params

    doubled = {name: jnp.asarray([value, 0.9 * value]) for name, value in numbers.items()}
    both = jax.vmap(train)(doubled)
    for index, factor in enumerate((1.0, 0.9)):
        alone = train({name: factor * value for name, value in numbers.items()})
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a[index], b, rtol=1e-4, atol=1e-6),  # noqa: B023
            both,
            alone,
        )


@every_optimizer
def test_decay_moves_kernels_only(optimizer):
    with_decay = one_update(replace(optimizer, weight_decay=0.5))
    without = one_update(replace(optimizer, weight_decay=0.0))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), with_decay, without)
    assert moved["dense"].pop("kernel")
    assert not any(jax.tree.leaves(moved)), moved


@every_optimizer
def test_no_decay_is_a_pattern_on_the_path(optimizer):
    optimizer = replace(optimizer, weight_decay=0.5, no_decay="dense/kernel")
    without = one_update(replace(optimizer, weight_decay=0.0))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), one_update(optimizer), without)
    assert not moved["dense"]["kernel"]
    assert moved["dense"]["bias"]


@pytest.mark.parametrize("kind", [SGD, Adam, RMSProp])
def test_coupled_decay_equals_a_penalty_in_the_loss(kind):
    def penalised(params):
        dense = dict(GRADIENTS["dense"])
        dense["kernel"] += 0.3 * params["dense"]["kernel"]
        return {**GRADIENTS, "dense": dense}

    # More than one step: in the first, momentum cannot tell the two orders apart.
    coupled = trajectory(kind(weight_decay=0.3).build(10), lambda _: GRADIENTS)
    plain = trajectory(kind(weight_decay=0.0).build(10), penalised)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), coupled, plain)


@pytest.mark.parametrize("kind", [AdamW, Lion, Muon])
def test_decoupled_decay_is_rate_times_decay_times_parameter(kind):
    optimizer = kind(learning_rate=0.1, weight_decay=0.3)
    extra = jax.tree.map(
        jnp.subtract, one_update(optimizer), one_update(replace(optimizer, weight_decay=0.0))
    )
    kernel = PARAMS["dense"]["kernel"]
    np.testing.assert_allclose(extra["dense"]["kernel"], -0.1 * 0.3 * kernel, atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (SGD(0.1, weight_decay=0.0, nesterov=True), optax.sgd(0.1, 0.9, nesterov=True)),
        (RMSProp(0.1), optax.rmsprop(0.1, decay=0.9)),
        (Adam(0.1), optax.adam(0.1)),
        (AdamW(0.1, weight_decay=0.2, no_decay="^$"), optax.adamw(0.1, weight_decay=0.2)),
        (Lion(0.1, weight_decay=0.2, no_decay="^$"), optax.lion(0.1, weight_decay=0.2)),
        (LAMB(0.1, weight_decay=0.2, no_decay="^$"), optax.lamb(0.1, weight_decay=0.2)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Optimizer) else "",
)
def test_equals_optax(ours, reference):
    ends = [trajectory(transform, lambda _: GRADIENTS) for transform in (ours.build(10), reference)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *ends)


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("generator/mlp/input/kernel", False),
        ("discriminator/mlp/output/kernel", False),
        ("generator/mlp/layers/kernel", True),
        ("output/kernel", False),
        ("encoder/output/kernel", True),
    ],
)
def test_the_ends_of_networks_and_players_are_left_to_adamw(path, hidden):
    assert (re.search(Muon().elementwise, path) is None) is hidden


@every_optimizer
def test_frozen_parameters_keep_their_bits(optimizer):
    optimizer = replace(
        optimizer, frozen=("^dense/", "D$"), weight_decay=0.5, ema_decay=0.9, no_decay="^$"
    )
    loss = lambda params: sum(jnp.square(p - 0.2).sum() for p in jax.tree.leaves(params))  # noqa: E731
    end, state, _ = descend(optimizer, loss, PARAMS, steps=5)
    for tree in (end, find_ema(state)):
        unchanged = jax.tree.map(lambda a, b: bool((a == b).all()), tree, PARAMS)
        assert unchanged == {
            "embed": {"embedding": False},
            "dense": {"kernel": True, "bias": True},
            "norm": {"scale": False},
            "ssm": {"A_log": False, "D": True, "dt_bias": False},
        }


def test_frozen_parameters_take_no_part_in_the_norm():
    huge = {**GRADIENTS, "dense": jax.tree.map(lambda g: 1e6 * g, GRADIENTS["dense"])}
    optimizer = SGD(clip_norm=1.0, frozen=("^dense/",))
    jax.tree.map(
        np.testing.assert_array_equal,
        one_update(optimizer, gradients=huge),
        one_update(optimizer),
    )


def test_frozen_pattern_without_a_match_is_refused():
    with pytest.raises(UsageError, match="'desne' matches no parameter"):
        SGD(frozen=("desne",)).build(10).init(PARAMS)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_clip_norm_bounds_the_gradient_and_keeps_its_direction(scale):
    gradients = jax.tree.map(lambda g: scale * g, GRADIENTS)
    updates = one_update(SGD(learning_rate=1.0, clip_norm=0.7), gradients=gradients)
    norm = float(optax.tree.norm(gradients))
    expected = jax.tree.map(lambda g: -g * min(1.0, 0.7 / norm), gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, expected)
    assert optax.tree.norm(updates) <= 0.7 * (1 + 1e-5)


def test_clipping_comes_before_the_coupled_decay():
    zero = jax.tree.map(jnp.zeros_like, GRADIENTS)
    updates = one_update(SGD(1.0, weight_decay=100.0, clip_norm=0.1), gradients=zero)
    np.testing.assert_allclose(updates["dense"]["kernel"], -100 * PARAMS["dense"]["kernel"])


def test_learning_rate_follows_the_schedule():
    optimizer = SGD(learning_rate=0.5, momentum=0.0, schedule=Linear(warmup=2))
    transform = optimizer.build(6)
    params = {"w": jnp.zeros(())}
    state = transform.init(params)
    for step in range(6):
        updates, state = transform.update({"w": jnp.ones(())}, state, params)
        rate = optimizer.learning_rate_at(step, 6)
        np.testing.assert_allclose(-updates["w"], rate, rtol=1e-6)
    np.testing.assert_allclose(
        optimizer.learning_rate_at(np.arange(6), 6), [0, 0.25, 0.5, 0.375, 0.25, 0.125]
    )


@every_optimizer
def test_state_is_arrays_that_survive_flatten_and_unflatten(optimizer):
    optimizer = replace(optimizer, clip_norm=1.0, ema_decay=0.9, frozen=("scale",))
    transform = optimizer.build(10)
    state = jax.jit(transform.init)(PARAMS)
    leaves, structure = jax.tree.flatten(state)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    again = jax.tree.unflatten(structure, [jnp.asarray(np.asarray(leaf)) for leaf in leaves])
    first, next_state = jax.jit(transform.update)(GRADIENTS, state, PARAMS)
    second, _ = jax.jit(transform.update)(GRADIENTS, again, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert jax.tree.structure(next_state) == structure
    assert [leaf.dtype for leaf in jax.tree.leaves(next_state)] == [leaf.dtype for leaf in leaves]


@every_optimizer
def test_good_fields_pass_validation(optimizer):
    replace(optimizer, clip_norm=1.0, ema_decay=0.999, schedule=Cosine(warmup=3)).validate(10)


@pytest.mark.parametrize("field", sorted(optimizers.RANGES))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
def test_hostile_numbers_are_refused_naming_the_field(field, value):
    kind = next(type(o) for o in ALL if hasattr(o, field))
    with pytest.raises(UsageError, match=f"{kind.__name__}: {field} = {value}") as caught:
        kind(**{field: value}).validate(10)
    assert "\n" not in str(caught.value)


def test_every_float_field_has_a_range():
    for optimizer in ALL:
        for field in fields(optimizer):
            if "float" in str(field.type):
                assert field.name in optimizers.RANGES, field.name


def test_bad_patterns_and_schedules_are_refused():
    with pytest.raises(UsageError, match=r"'\(' is no regular expression"):
        SGD(frozen=("(",)).validate(10)
    with pytest.raises(UsageError, match=r"'\[' is no .* mend optimizer.elementwise"):
        Muon(elementwise="[").validate(10)
    with pytest.raises(UsageError, match="warmup = 11"):
        SGD(schedule=Constant(warmup=11)).validate(10)


def test_numbers_are_not_checked_by_build():
    # A sweep may probe a rate that diverges; validation is the experiment's.
    SGD(learning_rate=-1.0).build(10)
