"""Language modelling: which labels count, the units of its metrics, and what it refuses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixers import MODELS, VOCABULARY

from deeplearn.errors import DataError, UsageError
from deeplearn.evaluate import values
from deeplearn.layers.attention import Attention
from deeplearn.models.bidirectional import Bidirectional
from deeplearn.models.lstm import LSTM
from deeplearn.models.sequence import Block, SequenceModel
from deeplearn.tasks.language import Language

T = 8


@pytest.fixture
def batch(key):
    return {"tokens": jax.random.randint(key, (3, T + 1), 0, VOCABULARY)}


@pytest.fixture
def task():
    return Language(MODELS["attention"]())


@pytest.fixture
def variables(task, batch, key):
    return jax.jit(task.init)(key, batch)


def test_the_loss_is_that_of_the_next_token(task, variables, batch, key):
    mean, aux = task.loss(variables, batch, key)
    logits, _ = task.model.apply(variables, batch["tokens"][:, :-1])
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["tokens"][:, 1:, None], axis=-1)
    np.testing.assert_allclose(mean, -chosen.mean(), rtol=1e-5)
    assert float(aux.weight) == 3 * T
    hits = (logits.argmax(-1) == batch["tokens"][:, 1:]).mean()
    np.testing.assert_allclose(aux.metrics["accuracy"].value, hits, rtol=1e-6)


def test_metrics_come_in_nats_and_perplexity(task, variables, batch):
    shown = values(task.evaluate(variables, batch))
    assert shown["perplexity"] == pytest.approx(math.exp(shown["loss"]), rel=1e-6)
    assert task.bits_per_byte(3 * math.log(2), bytes_per_token=2.0) == pytest.approx(1.5)


def test_perplexity_of_parts_is_that_of_the_whole(task, variables, batch):
    whole = task.evaluate(variables, batch)
    parts = [
        task.evaluate(variables, jax.tree.map(lambda x, rows=rows: x[rows], batch))
        for rows in (slice(0, 1), slice(1, 3))
    ]
    summed = {name: parts[0][name] + parts[1][name] for name in whole}
    assert values(summed) == pytest.approx(values(whole), rel=1e-5)


def test_the_tiled_loss_equals_the_plain_one(task, variables, batch, key):
    tiled = Language(task.model, tile=10)
    found = jax.value_and_grad(lambda v: tiled.loss(v, batch, key)[0])(variables)
    expected = jax.value_and_grad(lambda v: task.loss(v, batch, key)[0])(variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def test_labels_of_another_document_and_padding_count_nothing(task, variables, batch, key):
    segments = jnp.asarray([[1] * 4 + [2] * 5, [1] * 6 + [0] * 3, [0] * 9])
    _, aux = task.loss(variables, {**batch, "segments": segments}, key)
    assert float(aux.weight) == 3 + 4 + 5


def test_rows_of_weight_zero_count_nothing(task, variables, batch, key):
    masked = {**batch, "mask": jnp.asarray([1.0, 0.0, 0.0])}
    first = jax.tree.map(lambda x: x[:1], batch)
    np.testing.assert_allclose(
        task.loss(variables, masked, key)[0], task.loss(variables, first, key)[0], rtol=1e-5
    )
    nothing, aux = task.loss(variables, {**batch, "mask": jnp.zeros(3)}, key)
    assert float(nothing) == float(aux.weight) == 0


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.full((2, 4), VOCABULARY), rf"token {VOCABULARY} at place 0: outside the vocabulary"),
        (np.full((2, 4), -1), "token -1"),
        (np.zeros((2, 1), int), "T of 2 or more"),
        (np.zeros((2, 4)), "tokens are integers"),
    ],
)
def test_what_are_no_tokens_is_refused(task, tokens, message):
    with pytest.raises(DataError, match=message):
        task.check({"tokens": tokens})


def test_padded_rows_may_hold_anything(task, variables, key):
    batch = {"tokens": np.asarray([[1, 2], [99, 99]]), "mask": np.asarray([1.0, 0.0])}
    task.check(batch)
    gradients = jax.grad(lambda variables: task.loss(variables, batch, key)[0])(variables)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))


def test_a_field_that_cannot_be_is_refused(task):
    with pytest.raises(UsageError, match="tile = 0"):
        Language(task.model, tile=0)


@pytest.mark.parametrize("mixer", [Attention(2, 4, causal=False), Bidirectional(LSTM(4))])
def test_a_model_that_sees_the_future_is_refused(mixer, batch, key):
    task = Language(SequenceModel(VOCABULARY, 8, 1, (Block(mixer),)))
    with pytest.raises(UsageError, match="all tokens at once: it belongs in an encoder"):
        jax.eval_shape(task.init, key, batch)
