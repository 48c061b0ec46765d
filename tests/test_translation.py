"""Translation: loss and weights by hand, decoding, and what is refused."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deeplearn.errors import DataError, UsageError
from deeplearn.models.encoder_decoder import lstm_encoder_decoder, transformer_encoder_decoder
from deeplearn.tasks.task import Task
from deeplearn.tasks.translation import Translation
from deeplearn.types import Array, Variables

TASK = Translation(
    transformer_encoder_decoder(9, 11, width=16, depth=1, heads=2, features=24, dropout=0.0),
    smoothing=0.1,
)
BATCH = {
    "source": jnp.asarray([[5, 3, 8, 2, 0, 0], [4, 8, 2, 6, 3, 2]]),
    "target": jnp.asarray([[1, 7, 3, 2, 0], [1, 3, 10, 5, 2]]),
}
PLAIN = Translation(TASK.model)
loss = jax.jit(TASK.loss)
evaluate = jax.jit(TASK.evaluate)
gradients = jax.jit(jax.value_and_grad(TASK.loss, has_aux=True))


@functools.partial(jax.jit, static_argnames=("task", "count", "beams"))
def translate(
    task: Translation, variables: Variables, source: Array, count: int, beams: int = 1
) -> Array:
    return task.translate(variables, source, count, beams)


@functools.cache
def variables() -> Variables:
    found = jax.jit(TASK.init)(jax.random.key(1), BATCH)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: 8 * leaf if path[-1].key == "kernel" else leaf, found
    )


@functools.cache
def logits() -> Array:
    apply = jax.jit(functools.partial(TASK.model.apply, method="teacher_forced"))
    return apply(variables(), BATCH["source"], BATCH["target"][:, :-1])


def expected(smoothing: float) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy and hits of each real label, from the logits: (7,) both."""
    nats = -np.asarray(jax.nn.log_softmax(logits().astype(jnp.float32)))
    labels = np.asarray(BATCH["target"][:, 1:])
    picked = np.take_along_axis(nats, labels[..., None], -1)[..., 0]
    losses = (1 - smoothing) * picked + smoothing * nats.mean(-1)
    return losses[labels > 0], (nats.argmin(-1) == labels)[labels > 0]


def test_is_a_task():
    assert isinstance(TASK, Task)


def test_loss_and_accuracy_equal_the_hand_computation(key):
    losses, hits = expected(smoothing=0.1)
    value, aux = loss(variables(), BATCH, key)
    np.testing.assert_allclose(value, losses.mean(), rtol=1e-5)
    assert aux.weight == 7
    np.testing.assert_allclose(aux.metrics["accuracy"].value, hits.mean())
    losses, hits = expected(smoothing=0.0)
    means = evaluate(variables(), BATCH)
    assert set(means) == {"loss", "perplexity", "accuracy"}
    np.testing.assert_allclose(means["loss"].value, losses.mean(), rtol=1e-5)
    shown = means["perplexity"].shown(float(means["perplexity"].value))
    np.testing.assert_allclose(shown, np.exp(losses.mean()), rtol=1e-5)
    assert means["accuracy"] == aux.metrics["accuracy"]


def test_a_row_counts_by_its_weight_and_its_tokens(key):
    losses, _ = expected(smoothing=0.1)
    value, aux = loss(variables(), {**BATCH, "mask": jnp.asarray([1.0, 0.5])}, key)
    weights = [1, 1, 1, 0.5, 0.5, 0.5, 0.5]
    np.testing.assert_allclose(value, np.average(losses, weights=weights), rtol=1e-5)
    assert aux.weight == 5


def test_no_weight_means_no_loss_and_no_gradient(key):
    for batch in (
        {**BATCH, "mask": jnp.zeros(2)},
        {**BATCH, "target": BATCH["target"].at[:, 1:].set(0)},
    ):
        (value, aux), gradient = gradients(variables(), batch, key)
        assert (value, aux.weight) == (0, 0)
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_a_masked_row_may_hold_anything(key):
    batch = {name: field.at[1].set(99) for name, field in BATCH.items()}
    batch["mask"] = jnp.asarray([1.0, 0.0])
    (value, _), gradient = gradients(variables(), batch, key)
    np.testing.assert_allclose(value, loss(variables(), {**batch, **BATCH}, key)[0], rtol=1e-5)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_padding_changes_nothing(key):
    padded = {name: jnp.pad(field, ((0, 0), (0, 3))) for name, field in BATCH.items()}
    found, aux = loss(variables(), padded, key)
    np.testing.assert_allclose(found, loss(variables(), BATCH, key)[0], rtol=1e-5)
    assert aux.weight == 7


def test_dropout_acts_in_training_only(key):
    task = Translation(
        transformer_encoder_decoder(9, 11, width=16, depth=1, heads=2, features=24, dropout=0.3)
    )
    value = jax.jit(task.loss)
    assert value(variables(), BATCH, key)[0] != value(variables(), BATCH, jax.random.key(1))[0]
    found = task.evaluate(variables(), BATCH)["loss"].value
    np.testing.assert_allclose(found, evaluate(variables(), BATCH)["loss"].value, rtol=1e-5)


def test_init_depends_on_shapes_and_key_only(key):
    shapes = jax.eval_shape(TASK.init, key, BATCH)
    longer = {"source": jnp.zeros((3, 9), int), "target": jnp.zeros((3, 4), int)}
    assert shapes == jax.eval_shape(TASK.init, key, longer)


@pytest.mark.parametrize(
    "model",
    [
        transformer_encoder_decoder(9, 9, width=16, depth=1, heads=2, features=32, dropout=0.0),
        lstm_encoder_decoder(9, 9, width=16, depth=1),
    ],
    ids=["transformer", "lstm"],
)
def test_learns_to_copy_and_decodes_it(key, model):
    """Words of one to four letters from 3 on; the model sees all of them in training."""
    generator = np.random.default_rng(0)
    words = [tuple(generator.integers(3, 9, generator.integers(1, 5))) for _ in range(48)]
    rows = np.zeros((len(words), 6), np.int32)
    for row, word in zip(rows, words, strict=True):
        row[: len(word) + 2] = [1, *word, 2]
    batch = {"source": jnp.asarray(rows[:, 1:]), "target": jnp.asarray(rows)}
    task, transform = Translation(model), optax.adam(1e-2)

    @jax.jit
    def trained(variables: Variables) -> Variables:
        def step(carry: tuple, _: None) -> tuple:
            variables, state = carry
            gradients = jax.grad(lambda v: task.loss(v, batch, key)[0])(variables)
            updates, state = transform.update(gradients, state)
            return (optax.apply_updates(variables, updates), state), None

        return jax.lax.scan(step, (variables, transform.init(variables)), length=150)[0][0]

    learned = trained(jax.jit(task.init)(key, batch))
    for beams in (1, 3):
        found = translate(task, learned, batch["source"], count=5, beams=beams)
        right = np.where(rows[:, 1:] == 0, 2, rows[:, 1:])
        assert (np.asarray(found) == right).all(1).mean() > 0.95


def test_one_beam_takes_the_likeliest_token_each_time():
    found = np.asarray(translate(PLAIN, variables(), BATCH["source"], count=4))
    logits = TASK.model.apply(
        variables(),
        BATCH["source"],
        jnp.pad(jnp.asarray(found[:, :-1]), ((0, 0), (1, 0)), constant_values=1),
        method="teacher_forced",
    )
    likeliest = np.asarray(logits.argmax(-1))
    ended = np.cumsum(found == 2, axis=1) - (found == 2) > 0
    np.testing.assert_array_equal(found, np.where(ended, 2, likeliest))


def test_what_has_ended_repeats_its_end():
    free = np.asarray(translate(PLAIN, variables(), BATCH["source"], count=4))
    end = int(free[0, 1])
    assert not (free[0] == end).all()
    found = translate(Translation(TASK.model, end=end), variables(), BATCH["source"], count=4)
    assert found[0].tolist() == [free[0, 0], end, end, end]


BAD = {
    "source": (
        {"source": np.array([[3, 9]])},
        r"'source' in row 0 .* token 9 at place 1.*\[0, 8\]",
    ),
    "target": ({"target": np.array([[1, 3, 11]])}, r"'target' in row 0 .* token 11 at place 2"),
    "negative": ({"target": np.array([[1, -1, 2]])}, "token -1"),
    "floats": ({"source": np.ones((1, 3), np.float32)}, "'source' is float32"),
    "too short": ({"target": np.array([[1]])}, "T of 2 or more"),
    "missing": ({"target": None}, "no field 'target'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_batches_are_refused_in_one_line(name):
    change, message = BAD[name]
    batch = {"source": np.array([[3, 2]]), "target": np.array([[1, 3, 2]]), **change}
    with pytest.raises(DataError, match=message) as caught:
        TASK.check({key: value for key, value in batch.items() if value is not None})
    assert "\n" not in str(caught.value)


def test_good_batches_pass_and_padding_is_not_looked_at():
    batch = {name: np.asarray(field) for name, field in BATCH.items()}
    TASK.check(batch)
    batch = {**batch, "source": batch["source"].copy(), "mask": np.array([1, 0])}
    batch["source"][1] = 99
    TASK.check(batch)


def test_bad_fields_are_refused():
    with pytest.raises(UsageError, match="tile = 0"):
        Translation(TASK.model, tile=0)
    with pytest.raises(UsageError, match="smoothing = 1"):
        Translation(TASK.model, smoothing=1.0)
    words = TASK.model.vocabulary
    with pytest.raises(UsageError, match=rf"begin = {words} is outside the vocabulary \[0, "):
        Translation(TASK.model, begin=words)
    with pytest.raises(UsageError, match="end = -1 is outside the vocabulary"):
        Translation(TASK.model, end=-1)


def test_the_tiled_loss_equals_the_plain_one(key):
    tiled = dataclasses.replace(TASK, tile=4)
    found = jax.jit(jax.value_and_grad(tiled.loss, has_aux=True))(variables(), BATCH, key)
    (expected, aux), gradient = gradients(variables(), BATCH, key)
    np.testing.assert_allclose(found[0][0], expected, rtol=1e-5)
    assert found[0][1].weight == aux.weight and not found[0][1].metrics
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), found[1], gradient)
    means = jax.eval_shape(tiled.evaluate, variables(), BATCH)
    assert set(means) == {"loss", "perplexity"}


def test_a_packed_row_has_the_loss_of_its_pairs(key):
    packed = {
        "source": jnp.asarray([[5, 3, 8, 2, 0, 4, 8, 2, 6, 3, 2]]),
        "source_segments": jnp.asarray([[1, 1, 1, 1, 0, 2, 2, 2, 2, 2, 2]]),
        "target": jnp.asarray([[1, 7, 3, 2, 0, 1, 3, 10, 5, 2, 0]]),
        "target_segments": jnp.asarray([[1, 1, 1, 1, 0, 2, 2, 2, 2, 2, 0]]),
    }
    (apart, aux), apart_gradient = gradients(variables(), BATCH, key)
    (together, packed_aux), gradient = gradients(variables(), packed, key)
    np.testing.assert_allclose(together, apart, rtol=1e-5)
    assert packed_aux.weight == aux.weight == 7
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), gradient, apart_gradient
    )
