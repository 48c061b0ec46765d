"""BERT: published counts, both directions, padding, and the heads on top."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.models.bert import BERT, MaskedLanguageModel, preset
from deeplearn.types import Array, Variables

SMALL = BERT(vocabulary=23, width=16, depth=2, heads=2, features=24, max_length=12, dropout=0.1)
TOKENS = jnp.asarray([[7, 3, 19, 2, 5, 0, 0, 0], [4, 8, 1, 6, 11, 22, 9, 12]])
SEGMENTS = (TOKENS > 0).astype(jnp.int32)


@functools.cache
def variables_of(model: BERT | MaskedLanguageModel) -> Variables:
    """Kernels ten times as large, so that attention is not flat."""
    variables = jax.jit(model.init)(jax.random.key(1), TOKENS)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: 10 * leaf if path[-1].key == "kernel" else leaf, variables
    )


def features(tokens: Array, segments: Array | None = None) -> Array:
    return _apply(variables_of(SMALL), tokens, segments)


@jax.jit
def _apply(variables: Variables, tokens: Array, segments: Array | None) -> Array:
    return SMALL.apply(variables, tokens, segments=segments)


@pytest.mark.parametrize(
    ("name", "count"),
    [("bert_base", 109_482_240), ("bert_large", 335_141_888), ("minilm_l6", 22_713_216)],
)
def test_parameters_count_as_published(name, count):
    init = functools.partial(preset(name).init, method="pooled")
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_every_token_sees_every_other():
    variables = variables_of(SMALL)

    def output(table: Array, place: int) -> Array:
        params = {**variables["params"], "embedding": {"embedding": table}}
        # Not all of the features: they are normalized, so that their squares always add up to D.
        return SMALL.apply({"params": params}, TOKENS[1:])[0, place, 0]

    table = variables["params"]["embedding"]["embedding"]
    for place in (0, 7):
        found = jax.jit(jax.grad(output), static_argnums=1)(table, place)[TOKENS[1]]
        assert (jnp.abs(found).max(1) > 0).all()


def test_padding_is_transparent():
    padded = features(TOKENS, SEGMENTS)
    np.testing.assert_allclose(padded[0, :5], features(TOKENS[:1, :5])[0], atol=1e-5)
    np.testing.assert_allclose(padded[1], features(TOKENS[1:])[0], atol=1e-5)
    other = features(TOKENS.at[0, 5:].set(9), SEGMENTS)
    np.testing.assert_array_equal(other[0, :5], padded[0, :5])
    left = jnp.roll(TOKENS, 3, axis=1)
    found = features(left, jnp.roll(SEGMENTS, 3, axis=1).at[1].set(1))
    np.testing.assert_allclose(found[0, 3:], padded[0, :5], atol=1e-5)


def test_packed_documents_equal_separate_ones():
    packed = features(TOKENS, jnp.asarray([[1] * 8, [1] * 3 + [2] * 5]))
    np.testing.assert_allclose(packed[1, :3], features(TOKENS[1:, :3])[0], atol=1e-5)
    np.testing.assert_allclose(packed[1, 3:], features(TOKENS[1:, 3:])[0], atol=1e-5)


def test_positions_and_types_count():
    assert not np.allclose(features(TOKENS)[1], features(TOKENS[:, ::-1])[1, ::-1], atol=1e-3)
    variables = variables_of(SMALL)
    typed = SMALL.apply(variables, TOKENS, types=jnp.zeros_like(TOKENS).at[:, 4:].set(1))
    assert not np.allclose(typed, features(TOKENS), atol=1e-3)
    plain = SMALL.apply(variables, TOKENS, types=jnp.zeros_like(TOKENS))
    np.testing.assert_allclose(plain, features(TOKENS), atol=1e-6)


def test_the_norm_comes_last():
    found = features(TOKENS)
    np.testing.assert_allclose(found.mean(-1), jnp.zeros(found.shape[:2]), atol=1e-5)
    np.testing.assert_allclose(found.std(-1), jnp.ones(found.shape[:2]), atol=1e-4)


def test_remat_changes_nothing():
    params = variables_of(SMALL)["params"]

    def gradient(remat: str | None) -> tuple:
        model = SMALL.copy(remat=remat)

        def loss(params: dict) -> Array:
            found = model.apply(
                {"params": params},
                TOKENS,
                segments=SEGMENTS,
                train=True,
                rngs={"dropout": jax.random.key(2)},
            )
            return jnp.square(found * SEGMENTS[:, :, None] - 0.5).mean()

        return jax.jit(jax.value_and_grad(loss))(params)

    plain = gradient(None)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6)
    for policy in ("full", "dots"):
        jax.tree.map(close, gradient(policy), plain)


def test_dropout_acts_in_training_only(key):
    variables = variables_of(SMALL)
    run = functools.partial(SMALL.apply, variables, TOKENS, train=True)
    first, second = (run(rngs={"dropout": jax.random.key(seed)}) for seed in (0, 1))
    assert (first != second).any()
    assert not np.allclose(first, features(TOKENS))


def test_the_pooler_reads_the_first_token():
    variables = jax.jit(functools.partial(SMALL.init, method="pooled"))(jax.random.key(1), TOKENS)
    pooled = SMALL.apply(variables, TOKENS, method="pooled")
    first = SMALL.apply(variables, TOKENS)[:, 0]
    kernel = variables["params"]["pooler"]["kernel"]
    np.testing.assert_allclose(pooled, jnp.tanh(first @ kernel), atol=1e-5)


def test_the_pooler_reads_the_first_word_behind_padding():
    variables = jax.jit(functools.partial(SMALL.init, method="pooled"))(jax.random.key(1), TOKENS)
    text = TOKENS[:, :3]
    alone = SMALL.apply(variables, text, method="pooled")
    for before, behind in ((2, 0), (0, 2), (1, 1)):
        tokens = jnp.pad(text, ((0, 0), (before, behind)))
        real = jnp.pad(jnp.ones_like(text), ((0, 0), (before, behind)))
        pooled = SMALL.apply(variables, tokens, segments=real, method="pooled")
        np.testing.assert_allclose(pooled, alone, atol=1e-5)


def test_the_masked_word_head_is_tied_to_the_embedding():
    model = MaskedLanguageModel(SMALL)
    variables = variables_of(model)
    logits = model.apply(variables, TOKENS, segments=SEGMENTS)
    assert logits.shape == (2, 8, 23)
    assert logits.dtype == jnp.float32
    params = variables["params"]
    assert set(params) == {"encoder", "transform", "norm", "bias"}
    # Swapping two words of the embedding swaps their logits where neither is read.
    order = jnp.arange(23).at[jnp.asarray([13, 14])].set(jnp.asarray([14, 13]))
    table = params["encoder"]["embedding"]["embedding"][order]
    encoder = {**params["encoder"], "embedding": {"embedding": table}}
    swapped = model.apply({"params": {**params, "encoder": encoder}}, TOKENS, segments=SEGMENTS)
    np.testing.assert_allclose(swapped, logits[..., order], atol=1e-5)
    assert not np.allclose(logits[..., 13], logits[..., 14], atol=1e-3)


def test_no_dtype_is_promoted_silently():
    model = MaskedLanguageModel(SMALL)
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(
            functools.partial(model.apply, segments=SEGMENTS), variables_of(model), TOKENS
        )


def test_logits_of_bfloat16_are_float32():
    model = MaskedLanguageModel(SMALL.copy(dtype="bfloat16"))
    logits = jax.eval_shape(model.apply, variables_of(MaskedLanguageModel(SMALL)), TOKENS)
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize(
    ("fields", "tokens", "message"),
    [
        ({"heads": 3}, TOKENS, "width=16 does not divide into heads=3"),
        ({"depth": 0}, TOKENS, "depth=0"),
        ({"remat": "ful"}, TOKENS, "did you mean 'full'"),
        ({"max_length": 4}, TOKENS, "up to max_length=4"),
        ({}, TOKENS[0], r"not shape \(8,\)"),
    ],
)
def test_what_cannot_work_is_named(key, fields, tokens, message):
    with pytest.raises(UsageError, match=message):
        SMALL.copy(**fields).init(key, tokens)


def test_an_unknown_name_is_refused():
    with pytest.raises(UsageError, match="did you mean 'bert_base'"):
        preset("bert-base")
