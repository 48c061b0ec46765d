"""Classifiers of text: pooling, padding, and the classification task on tokens."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import DataError, UsageError
from deeplearn.layers.attention import Attention
from deeplearn.models.bert import BERT
from deeplearn.models.encoder import TextClassifier, encode
from deeplearn.models.sequence import Block, SequenceModel
from deeplearn.tasks.classification import Classification

ENCODERS = {
    "bert": BERT(19, width=16, depth=1, heads=2, features=24, dropout=0.0),
    "sequence": SequenceModel(19, 16, 1, (Block(Attention(2, 8)),)),
}
X = jnp.asarray([[4, 9, 3, 0, 0, 0], [5, 7, 2, 8, 18, 1]])
every_encoder = pytest.mark.parametrize("name", ENCODERS)


@functools.cache
def features(name: str) -> np.ndarray:
    """(B, T, D)."""
    variables = {"params": variables_of(name, "mean")["params"]["encoder"]}
    segments = (X > 0).astype(jnp.int32)
    run = functools.partial(encode, segments=segments, train=False)
    if name == "sequence":
        return ENCODERS[name].apply(variables, X, segments=segments, method="features")[0]
    return ENCODERS[name].apply(variables, X, method=run)


@functools.cache
def variables_of(name: str, pooling: str) -> dict:
    model = TextClassifier(ENCODERS[name], outputs=3, pooling=pooling)
    return jax.jit(model.init)(jax.random.key(1), X)


@every_encoder
@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_pooling_takes_what_it_says_of_real_tokens(name, pooling):
    found = np.asarray(features(name))
    expected = {
        "mean": [found[0, :3].mean(0), found[1].mean(0)],
        "first": [found[0, 0], found[1, 0]],
        "last": [found[0, 2], found[1, 5]],
    }[pooling]
    variables = variables_of(name, pooling)
    dense = variables["params"]["output"]
    logits = np.stack(expected) @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    model = TextClassifier(ENCODERS[name], outputs=3, pooling=pooling)
    np.testing.assert_allclose(model.apply(variables, X), logits, atol=1e-5)


def test_the_pooler_is_the_encoders_own():
    model = TextClassifier(ENCODERS["bert"], outputs=3, pooling="pooler")
    variables = variables_of("bert", "pooler")
    encoder = {"params": variables["params"]["encoder"]}
    segments = (X > 0).astype(jnp.int32)
    pooled = ENCODERS["bert"].apply(encoder, X, segments=segments, method="pooled")
    dense = variables["params"]["output"]
    np.testing.assert_allclose(
        model.apply(variables, X),
        pooled @ dense["kernel"] + dense["bias"].reshape(1, -1),
        atol=1e-5,
    )


@every_encoder
@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_padding_changes_nothing_and_padding_alone_is_finite(name, pooling):
    model = TextClassifier(ENCODERS[name], outputs=3, pooling=pooling)
    variables = variables_of(name, pooling)
    logits = model.apply(variables, X)
    longer = model.apply(variables, jnp.pad(X, ((0, 0), (0, 2))))
    np.testing.assert_allclose(longer, logits, atol=1e-5)
    np.testing.assert_allclose(model.apply(variables, X[:1, :3]), logits[:1], atol=1e-5)
    assert jnp.isfinite(model.apply(variables, jnp.zeros_like(X))).all()


@every_encoder
def test_the_classification_task_fits(name, key):
    task = Classification(TextClassifier(ENCODERS[name], outputs=3, dropout=0.2))
    batch = {"x": X, "label": jnp.asarray([0, 2]), "mask": jnp.asarray([1.0, 0.0])}
    variables = jax.jit(task.init)(key, batch)
    (loss, aux), gradient = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(
        variables, batch, key
    )
    assert aux.weight == 1
    other = {**batch, "x": X.at[1].set(6)}
    np.testing.assert_allclose(task.loss(variables, other, key)[0], loss, rtol=1e-5)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_tokens_outside_the_vocabulary_are_refused():
    task = Classification(TextClassifier(ENCODERS["bert"], outputs=3))
    batch = {"x": np.asarray(X), "label": np.asarray([0, 2])}
    task.check(batch)
    with pytest.raises(DataError, match=r"'x' in row 1 .* token 19 at place 2: .*\[0, 18\]"):
        bad = batch["x"].copy()
        bad[1, 2] = 19
        task.check({**batch, "x": bad})
    with pytest.raises(DataError, match="tokens are integers"):
        task.check({**batch, "x": batch["x"].astype(np.float32)})


def test_an_unknown_pooling_is_refused(key):
    with pytest.raises(UsageError, match="pooling='men' is not known; did you mean 'mean'"):
        TextClassifier(ENCODERS["bert"], outputs=3, pooling="men").init(key, X)


def test_a_pooler_that_the_encoder_lacks_is_refused(key):
    with pytest.raises(UsageError, match="pooling='pooler' of a SequenceModel, which has none"):
        TextClassifier(ENCODERS["sequence"], outputs=3, pooling="pooler").init(key, X)
