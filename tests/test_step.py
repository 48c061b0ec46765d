"""The train step: gradients by hand, microbatches, the guard, and the scan of steps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deeplearn.models.mlp import MLP
from deeplearn.optimizers import SGD, AdamW
from deeplearn.step import evaluation_variables, init_state, scan_steps, train_step
from deeplearn.tasks.classification import Classification

ROWS = 12


@pytest.fixture
def batch():
    generator = np.random.default_rng(0)
    return {
        "x": jnp.asarray(generator.normal(size=(ROWS, 5)), jnp.float32),
        "label": jnp.asarray(generator.integers(0, 3, ROWS), jnp.int32),
    }


def problem(dropout=0.0, normalization=None, optimizer=None):
    task = Classification(MLP(hidden=(8,), outputs=3, dropout=dropout, normalization=normalization))
    return task, (optimizer or AdamW(learning_rate=0.1)).build(10)


def start(task, optimizer, key, batch):
    return jax.jit(lambda key: init_state(task, optimizer, key, batch))(key)


def compiled(task, optimizer, **options):
    return jax.jit(functools.partial(train_step, task, optimizer, **options))


def leaves_equal(one, two):
    return all(
        bool(jnp.array_equal(a, b))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    )


def assert_close(one, two, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), one, two)


def test_a_step_is_one_gradient_and_one_update(batch, key):
    task, optimizer = problem()
    state = start(task, optimizer, key, batch)
    gradients = jax.grad(lambda params: task.loss({"params": params}, batch, key)[0])(state.params)
    updates, _ = optimizer.update(gradients, state.opt_state, state.params)
    new, metrics = compiled(task, optimizer)(state, batch)
    assert_close(new.params, optax.apply_updates(state.params, updates))
    np.testing.assert_allclose(
        metrics["gradient_norm"].value, optax.tree.norm(gradients), rtol=1e-5
    )
    assert int(new.step) == 1


@pytest.mark.parametrize("microbatches", [2, 3, 12])
def test_microbatches_equal_the_full_batch(batch, key, microbatches):
    task, optimizer = problem(optimizer=SGD(learning_rate=0.1))
    # Unequal weights: a mean of means would be wrong, a weighted mean is right.
    batch = {**batch, "mask": jnp.asarray([1.0, 0.0, 0.5] * 4)}
    state = start(task, optimizer, key, batch)
    full, full_metrics = compiled(task, optimizer)(state, batch)
    split, split_metrics = compiled(task, optimizer, microbatches=microbatches)(state, batch)
    assert_close(full.params, split.params)
    for name in ("loss", "accuracy", "gradient_norm"):
        np.testing.assert_allclose(
            full_metrics[name].value, split_metrics[name].value, rtol=1e-5, err_msg=name
        )


def test_microbatches_carry_the_statistics_on(batch, key):
    task, optimizer = problem(normalization="batch")
    state = start(task, optimizer, key, batch)
    halves = [jax.tree.map(lambda x, start=start: x[start::2], batch) for start in range(2)]
    _, aux = task.loss({"params": state.params, **state.collections}, halves[0], key)
    _, aux = task.loss({"params": state.params, **aux.mutated}, halves[1], key)
    new, _ = compiled(task, optimizer, microbatches=2)(state, batch)
    assert_close(new.collections, dict(aux.mutated))


def test_weight_zero_changes_nothing_but_the_step(batch, key):
    task, optimizer = problem(normalization="batch")
    batch = {**batch, "mask": jnp.zeros(ROWS)}
    state = start(task, optimizer, key, batch)
    new, metrics = compiled(task, optimizer)(state, batch)
    assert float(metrics["loss"].value) == 0.0
    assert int(new.step) == 1
    assert leaves_equal(
        (new.params, new.collections, new.opt_state),
        (state.params, state.collections, state.opt_state),
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_never_reaches_the_state(batch, key, bad):
    task, optimizer = problem(normalization="batch")
    state = start(task, optimizer, key, batch)
    broken = {**batch, "x": batch["x"].at[3].set(bad)}
    step = compiled(task, optimizer, skip_limit=1)
    once, metrics = step(state, broken)
    assert int(metrics["skipped"].value) == 1
    assert leaves_equal(once.params, state.params)
    assert leaves_equal(once.opt_state, state.opt_state)
    assert leaves_equal(once.collections, state.collections)
    assert int(once.control.halted_at) == -1
    good, _ = step(once, batch)
    assert not leaves_equal(good.params, state.params)
    halted, _ = step(good, broken)
    assert int(halted.control.halted_at) == 2
    after, _ = step(halted, batch)
    assert leaves_equal(after.params, good.params)
    assert int(after.control.halted_at) == 2


def test_parameters_that_overflow_halt_at_once(batch, key):
    task, optimizer = problem(optimizer=SGD(learning_rate=1e38, momentum=0.0))
    state = start(task, optimizer, key, batch)
    state = dataclasses.replace(state, params=jax.tree.map(lambda p: p * 30, state.params))
    step = compiled(task, optimizer, skip_limit=5)
    halted, metrics = step(state, {**batch, "x": 10 * batch["x"]})
    assert np.isfinite(metrics["gradient_norm"].value)
    assert int(metrics["skipped"].value) == 1
    assert int(halted.control.halted_at) == 0
    after, _ = step(halted, batch)
    assert leaves_equal(after.opt_state, halted.opt_state)


def test_scanned_steps_equal_single_ones(batch, key):
    task, optimizer = problem(dropout=0.5)
    step = functools.partial(train_step, task, optimizer)
    state = single = start(task, optimizer, key, batch)
    batches = jax.tree.map(lambda x: jnp.stack([x, x[::-1], 2 * x]), {"x": batch["x"]})
    batches["label"] = jnp.stack([batch["label"]] * 3)
    for index in range(3):
        single, metrics = jax.jit(step)(
            single, jax.tree.map(lambda x, index=index: x[index], batches)
        )
    scanned, last = jax.jit(functools.partial(scan_steps, step))(state, batches)
    assert_close(single.params, scanned.params)
    assert_close(metrics["loss"].value, last["loss"].value)


def test_jit_equals_eager(batch, key):
    task, optimizer = problem(dropout=0.3, normalization="layer")
    state = start(task, optimizer, key, batch)
    step = functools.partial(train_step, task, optimizer, microbatches=2)
    eager, compiled = step(state, batch)[0], jax.jit(step)(state, batch)[0]
    assert_close(eager.params, compiled.params)


def test_randomness_belongs_to_the_step(batch, key):
    task, optimizer = problem(dropout=0.5, optimizer=SGD(learning_rate=0.0))
    state = start(task, optimizer, key, batch)
    first, loss_first = compiled(task, optimizer)(state, batch)
    _, loss_again = compiled(task, optimizer)(state, batch)
    _, loss_second = compiled(task, optimizer)(first, batch)
    assert float(loss_first["loss"].value) == float(loss_again["loss"].value)
    assert float(loss_first["loss"].value) != float(loss_second["loss"].value)


def test_evaluation_reads_the_average_where_one_is_kept(batch, key):
    task, optimizer = problem(optimizer=AdamW(learning_rate=0.1, ema_decay=0.5))
    state = start(task, optimizer, key, batch)
    step = compiled(task, optimizer)
    one, _ = step(state, batch)
    two, _ = step(one, batch)
    # At the second update the average goes 5/6 of the way, see `parameter_ema`.
    expected = jax.tree.map(lambda old, now: (old + 5 * now) / 6, one.params, two.params)
    assert_close(evaluation_variables(two)["params"], expected)
    task, optimizer = problem()
    state = start(task, optimizer, key, batch)
    assert leaves_equal(evaluation_variables(state)["params"], state.params)
