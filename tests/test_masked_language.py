"""Masked language modelling: what is hidden and how often, weights, and what is refused."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import DataError, UsageError
from deeplearn.models.bert import BERT, MaskedLanguageModel
from deeplearn.tasks.masked_language import MaskedLanguage
from deeplearn.tasks.task import Task
from deeplearn.types import Variables

MASK = 1
MODEL = MaskedLanguageModel(BERT(40, width=16, depth=1, heads=2, features=24, dropout=0.0))
TASK = MaskedLanguage(MODEL, mask_token=MASK, rate=0.4)
TOKENS = np.random.default_rng(0).integers(2, 40, (4, 20)).astype(np.int32)
TOKENS[0, 12:] = 0
BATCH = {"tokens": jnp.asarray(TOKENS)}
loss = jax.jit(TASK.loss)
evaluate = jax.jit(TASK.evaluate)
gradients = jax.jit(jax.value_and_grad(TASK.loss, has_aux=True))


@functools.cache
def variables() -> Variables:
    return jax.jit(TASK.init)(jax.random.key(1), BATCH)


def test_is_a_task():
    assert isinstance(TASK, Task)


def test_tokens_are_hidden_at_the_rates_of_the_paper():
    """15 %, and of these 80, 10 and 10 %: within four deviations of 400,000 tokens."""
    task = MaskedLanguage(MODEL, mask_token=MASK)
    tokens = jnp.full((100, 4000), 7)
    rows = jax.random.split(jax.random.key(0), 100)
    read, chosen = (np.asarray(x) for x in jax.jit(task.hide)(rows, tokens, jnp.ones_like(tokens)))
    assert (read[~chosen] == 7).all()
    count = chosen.sum()
    assert chosen.mean() == pytest.approx(0.15, abs=0.0023)
    assert (read[chosen] == MASK).mean() == pytest.approx(0.8 + 0.1 / 40, abs=0.0066)
    assert (read[chosen] == 7).mean() == pytest.approx(0.1 + 0.1 / 40, abs=0.005)
    others = np.bincount(read[chosen], minlength=40)
    others = others[(np.arange(40) != MASK) & (np.arange(40) != 7)]
    np.testing.assert_allclose(others / count, 0.1 / 40, rtol=0.35)


def test_padding_is_never_chosen_and_rows_differ():
    tokens = jnp.asarray(np.tile(TOKENS[1], (50, 1)))
    segments = jnp.ones_like(tokens).at[:, 15:].set(0)
    rows = jax.random.split(jax.random.key(0), 50)
    read, chosen = TASK.hide(rows, tokens, segments)
    assert not chosen[:, 15:].any()
    assert chosen[:, :15].any(0).all()
    np.testing.assert_array_equal(read[:, 15:], tokens[:, 15:])
    assert len(np.unique(np.asarray(chosen), axis=0)) > 40


def test_the_loss_is_that_of_the_chosen_tokens(key):
    value, aux = loss(variables(), BATCH, key)
    draw, _ = jax.random.split(key)
    segments = (BATCH["tokens"] > 0).astype(jnp.int32)
    read, chosen = TASK.hide(jax.random.split(draw, 4), BATCH["tokens"], segments)
    logits = MODEL.apply(variables(), read, segments=segments)
    nats = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), TOKENS[..., None], -1)[
        ..., 0
    ]
    np.testing.assert_allclose(value, nats[np.asarray(chosen)].mean(), rtol=1e-5)
    assert aux.weight == chosen.sum() > 0
    hits = (logits.argmax(-1) == TOKENS)[chosen]
    np.testing.assert_allclose(aux.metrics["accuracy"].value, hits.mean())


def test_training_draws_anew(key):
    assert loss(variables(), BATCH, key)[0] != loss(variables(), BATCH, jax.random.key(1))[0]


def test_evaluation_of_a_row_depends_on_nothing_but_the_row():
    whole = evaluate(variables(), BATCH)
    alone = [evaluate(variables(), {"tokens": BATCH["tokens"][row : row + 1]}) for row in range(4)]
    padded = evaluate(variables(), {"tokens": jnp.pad(BATCH["tokens"], ((0, 0), (0, 5)))})
    for name in ("loss", "accuracy"):
        total = sum(float(means[name].total) for means in alone)
        np.testing.assert_allclose(whole[name].total, total, rtol=1e-5)
        np.testing.assert_allclose(padded[name].total, total, rtol=1e-5)
    assert whole["loss"].weight == sum(float(means["loss"].weight) for means in alone)
    changed = evaluate(variables(), {"tokens": BATCH["tokens"].at[0, 3].add(-1)})
    assert changed["loss"].weight != whole["loss"].weight


def test_segments_tell_padding_from_token_0(key):
    tokens = BATCH["tokens"].at[1:].add(-2)
    counted, aux = loss(variables(), {"tokens": tokens, "segments": jnp.ones_like(tokens)}, key)
    assert aux.weight > loss(variables(), {"tokens": tokens}, key)[1].weight


def test_weights_of_rows_weigh_and_no_weight_means_no_loss(key):
    mask = jnp.asarray([0.0, 1, 0, 2])
    value, aux = loss(variables(), {**BATCH, "mask": mask}, key)
    assert aux.weight > 0
    other = BATCH["tokens"].at[0].set(39).at[2].set(38)
    np.testing.assert_allclose(loss(variables(), {"tokens": other, "mask": mask}, key)[0], value)
    for batch in ({**BATCH, "mask": jnp.zeros(4)}, {"tokens": jnp.zeros((4, 20), jnp.int32)}):
        (value, aux), gradient = gradients(variables(), batch, key)
        assert (value, aux.weight) == (0, 0)
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_a_masked_row_may_hold_anything(key):
    batch = {"tokens": BATCH["tokens"].at[1].set(99), "mask": jnp.asarray([1.0, 0, 1, 1])}
    _, gradient = gradients(variables(), batch, key)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_the_tiled_loss_equals_the_plain_one(key):
    tiled = dataclasses.replace(TASK, tile=9)
    # Its bias starts at 0.
    moved = jax.tree.map(lambda leaf: leaf + 0.1, variables())
    found = jax.jit(jax.value_and_grad(tiled.loss, has_aux=True))(moved, BATCH, key)
    (expected, aux), gradient = gradients(moved, BATCH, key)
    np.testing.assert_allclose(found[0][0], expected, rtol=1e-5)
    assert found[0][1].weight == aux.weight and not found[0][1].metrics
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), found[1], gradient)


def test_wrong_tokens_are_refused():
    TASK.check({"tokens": TOKENS})
    with pytest.raises(DataError, match=r"row 2 .* token 40 at place 5: .*\[0, 39\]"):
        bad = TOKENS.copy()
        bad[2, 5] = 40
        TASK.check({"tokens": bad})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate": 0.0}, "rate = 0"),
        ({"rate": 1.5}, "rate = 1.5"),
        ({"tile": 0}, "tile = 0"),
        ({"mask_token": 40}, r"mask_token = 40 .*\[0, 39\]"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(UsageError, match=message):
        MaskedLanguage(MODEL, **{"mask_token": MASK, **fields})
