"""The contract of sequence models, for every mixer in `mixers.MODELS`."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from mixers import MODELS, VOCABULARY, model

from deeplearn.errors import UsageError
from deeplearn.layers.attention import Attention
from deeplearn.models.bidirectional import Bidirectional
from deeplearn.models.lstm import LSTM
from deeplearn.models.sequence import Block, SequenceModel, with_dtype
from deeplearn.types import Array, Variables

T = 12
every_mixer = pytest.mark.parametrize("name", MODELS)


@functools.cache
def built(name: str) -> tuple[SequenceModel, Variables]:
    """A model and its variables; compiled calls share them."""
    module = MODELS[name]()
    # The first to ask may be a function that is being traced.
    with jax.ensure_compile_time_eval():
        return module, jax.jit(module.init)(jax.random.key(1), jnp.zeros((1, T), jnp.int32))


@functools.partial(jax.jit, static_argnums=0)
def call(
    name: str,
    tokens: Array,
    carry: object,
    segments: Array | None,
    positions: Array | None = None,
) -> tuple:
    module, variables = built(name)
    return module.apply(variables, tokens, carry, segments=segments, positions=positions)


def tokens_of(key: Array, rows: int = 2, length: int = T) -> Array:
    """Rows in which no token occurs twice."""
    keys = jax.random.split(key, rows)
    return jnp.stack([jax.random.permutation(row, VOCABULARY)[:length] for row in keys])


def in_chunks(name: str, tokens: Array, splits: list[int], segments: Array | None = None) -> tuple:
    module, _ = built(name)
    carry, logits = module.init_carry(len(tokens), tokens.shape[1]), []
    for start, stop in zip([0, *splits], [*splits, tokens.shape[1]], strict=True):
        part = None if segments is None else segments[:, start:stop]
        y, carry = call(name, tokens[:, start:stop], carry, part)
        logits.append(y)
    return jnp.concatenate(logits, axis=1), carry


def influence(name: str, tokens: Array, place: int, segments: Array | None = None) -> np.ndarray:
    """How much the logits at a place change with the embedding of each token: (T,)."""
    module, variables = built(name)

    def output(table: Array) -> Array:
        params = {**variables["params"], "embedding": {"embedding": table}}
        logits, _ = module.apply({"params": params}, tokens[:1], segments=segments)
        return jnp.square(logits[0, place]).sum()

    table = variables["params"]["embedding"]["embedding"]
    return np.abs(jax.jit(jax.grad(output))(table)[tokens[0]]).max(axis=1)


@every_mixer
def test_no_output_depends_on_a_later_token(name, key):
    place = 6
    found = influence(name, tokens_of(key), place)
    assert found[place] > 0
    assert (found[place + 1 :] == 0).all()


@every_mixer
@pytest.mark.parametrize("splits", [[5], [1, 2, 7], list(range(1, T))])
def test_chunks_of_any_split_equal_the_whole(name, key, splits):
    tokens = tokens_of(key)
    whole, _ = call(name, tokens, None, None)
    state = in_chunks(name, tokens, [])[1]
    parts, carry = in_chunks(name, tokens, splits)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), carry, state)


@every_mixer
def test_packed_documents_equal_separate_ones(name, key):
    tokens = tokens_of(key)
    segments = jnp.asarray([[1] * 5 + [2] * 7, [3] * 7 + [4] * 5])
    packed, _ = call(name, tokens, None, segments)
    for row, cut in enumerate((5, 7)):
        for part in (slice(0, cut), slice(cut, T)):
            alone, _ = call(name, tokens[row : row + 1, part], None, None)
            np.testing.assert_allclose(packed[row, part], alone[0], atol=1e-5)


@every_mixer
def test_packed_documents_in_chunks_equal_the_whole(name, key):
    tokens = tokens_of(key)
    # A document begins inside a chunk and goes on in the next one, another where a chunk begins.
    segments = jnp.asarray([[1] * 7 + [2] * 5, [1] * 4 + [2] * 7 + [0]])
    packed, _ = call(name, tokens, None, segments)
    parts, _ = in_chunks(name, tokens, [4, 8], segments)
    real = np.asarray(segments > 0)
    np.testing.assert_allclose(parts[real], packed[real], atol=1e-5)


@every_mixer
def test_nothing_leaks_between_documents(name, key):
    segments = jnp.asarray([[1] * 5 + [2] * 7])
    found = influence(name, tokens_of(key), 8, segments)
    assert (found[:5] == 0).all()
    assert found[8] > 0


@every_mixer
def test_nothing_leaks_between_documents_over_chunks_whose_positions_run_on(name, key):
    module, _ = built(name)
    segments, positions = jnp.asarray([[1] * 4 + [2] * 4] * 2), jnp.arange(8)[None]
    tokens = tokens_of(key)
    changed = tokens.at[:, :4].set((tokens[:, :4] + 1) % VOCABULARY)
    behind = []
    for each in (tokens, changed):
        _, carry = call(
            name, each[:, :4], module.init_carry(2, T), segments[:, :4], positions[:, :4]
        )
        behind.append(call(name, each[:, 4:8], carry, segments[:, 4:], positions[:, 4:])[0])
    np.testing.assert_array_equal(*behind)


@every_mixer
@pytest.mark.parametrize("positions", [None, jnp.arange(T)[None]], ids=["anew", "running on"])
def test_another_document_before_it_changes_no_bit(name, positions, key):
    """Of values; the test above sees gradients, which those written by hand clear by themselves."""
    tokens = tokens_of(key)
    segments = jnp.asarray([[1] * 5 + [2] * 7] * 2)
    changed = tokens.at[:, :5].set((tokens[:, :5] + 1) % VOCABULARY)
    found, _ = call(name, tokens, None, segments, positions)
    other, _ = call(name, changed, None, segments, positions)
    assert (found[:, :5] != other[:, :5]).any()
    np.testing.assert_array_equal(found[:, 5:], other[:, 5:])


@every_mixer
def test_padding_is_transparent(name, key):
    """Ragged prompts, padded on the right, go on as if there were no padding."""
    tokens = tokens_of(key)
    segments = jnp.asarray([[1] * 4 + [0] * 3, [1] * 7])
    module, _ = built(name)
    _, carry = call(name, tokens[:, :7], module.init_carry(2, T), segments)
    assert carry.position.tolist() == [4, 7]
    following = []
    for place in range(7, 10):
        y, carry = call(name, tokens[:, place : place + 1], carry, None)
        following.append(y[0, 0])
    kept = jnp.concatenate([tokens[:1, :4], tokens[:1, 7:10]], axis=1)
    alone, _ = call(name, kept, None, None)
    np.testing.assert_allclose(jnp.stack(following), alone[0, 4:], atol=1e-5)


@every_mixer
def test_padding_between_tokens_takes_no_place(name, key):
    tokens = tokens_of(key)
    real = np.asarray([1, 1, 1, 0, 0, 1, 1, 0, 1, 1, 1, 1], bool)
    segments = jnp.broadcast_to(jnp.asarray(real, jnp.int32)[None], tokens.shape)
    padded, _ = call(name, tokens, None, segments)
    alone, _ = call(name, tokens[:, real], None, None)
    np.testing.assert_allclose(padded[:, real], alone, atol=1e-5)


@every_mixer
def test_padding_of_any_length_leaves_the_state_as_it_is(name, key):
    module, _ = built(name)
    tokens = tokens_of(key)
    _, before = call(name, tokens[:, :1], module.init_carry(2, T), None)
    _, after = call(name, tokens[:, 1:4], before, jnp.zeros((2, 3), jnp.int32))
    jax.tree.map(np.testing.assert_array_equal, after, before)


def gradient(module: nn.Module, params: dict, tokens: Array) -> tuple:
    def loss(params: dict) -> Array:
        return jnp.square(module.apply({"params": params}, tokens)[0]).mean()

    return jax.jit(jax.value_and_grad(loss))(params)


@functools.cache
def plain_gradient(name: str) -> tuple:
    module, variables = built(name)
    return gradient(module, variables["params"], tokens_of(jax.random.key(0)))


close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6)


# What is kept for the way back is the model's affair: one policy for all mixers, another for two.
@pytest.mark.parametrize(
    ("name", "policy"),
    [*((name, "full") for name in MODELS), *((name, "dots") for name in ("attention", "mamba"))],
)
def test_remat_changes_nothing(name, policy, key):
    module, variables = built(name)
    found = gradient(module.copy(remat=policy), variables["params"], tokens_of(key))
    jax.tree.map(close, found, plain_gradient(name))


@every_mixer
def test_unrolling_changes_nothing(name, key):
    module, variables = built(name)
    params = dict(variables["params"])
    stacked = params.pop("layers")
    for index in range(module.repeats):
        params[f"layers_{index}"] = jax.tree.map(lambda leaf, index=index: leaf[index], stacked)
    loss, found = gradient(module.copy(scan=False), params, tokens_of(key))
    layers = [found.pop(f"layers_{index}") for index in range(module.repeats)]
    found["layers"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    jax.tree.map(close, (loss, found), plain_gradient(name))


@every_mixer
def test_gradients_in_bfloat16_are_finite_at_4096_tokens(name, key):
    module, variables = built(name)
    blocks = tuple(
        block.copy(dtype="bfloat16", mixer=block.mixer.copy(dtype="bfloat16"))
        for block in module.pattern
    )
    module = module.copy(pattern=blocks, repeats=1, dtype="bfloat16")
    params = dict(variables["params"])
    params["layers"] = jax.tree.map(lambda leaf: leaf[:1], params["layers"])
    tokens = jax.random.randint(key, (1, 4096), 0, VOCABULARY)

    def loss(params: dict) -> Array:
        return jnp.square(module.apply({"params": params}, tokens)[0]).mean()

    gradients = jax.jit(jax.grad(loss))(params)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))


def test_a_model_of_its_own_fields_is_hashable_and_equal():
    assert MODELS["attention"]() == MODELS["attention"]()
    assert hash(MODELS["attention"]()) == hash(MODELS["attention"]())


def test_sequences_beyond_the_model_are_refused(key):
    short = model(Block(Attention(4, 4)), max_length=8)
    tokens = tokens_of(key)
    with pytest.raises(UsageError, match="12 tokens exceed max_length=8"):
        short.init(key, tokens)
    with pytest.raises(UsageError, match="capacity=9 exceeds max_length=8"):
        short.init_carry(1, 9)
    variables = short.init(key, tokens[:, :8])
    with pytest.raises(UsageError, match="8 tokens at once, and the carry is for 5"):
        short.apply(variables, tokens[:1, :8], short.init_carry(1, 5))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"repeats": 0}, "repeats=0"),
        ({"remat": "ful"}, "did you mean 'full'"),
        ({"learned_positions": True}, "need its max_length"),
        ({"normalization": "batch"}, "would mix tokens"),
    ],
)
def test_a_wrong_field_is_named(key, fields, message):
    with pytest.raises(UsageError, match=message):
        model(Block(Attention(4, 4)), **fields).init(key, tokens_of(key))


@every_mixer
def test_the_dtype_of_a_model_is_that_of_all_its_modules(name, key):
    whole = MODELS[name]().clone(dtype="bfloat16")
    logits = jax.eval_shape(lambda key: whole.init_with_output(key, tokens_of(key))[0][0], key)
    assert logits.shape == (2, T, VOCABULARY)
    assert "dtype = 'float32'" not in repr(whole)
    assert whole.clone(dtype="float32") == MODELS[name]()


def test_the_dropout_of_a_model_is_that_of_its_blocks():
    block = Block(Attention(4, 4), dropout=0.3)
    assert [each.dropout for each in model(block, block, dropout=0.1).pattern] == [0.1, 0.1]
    assert model(block, dropout=0.1).clone(dropout=0.0).pattern[0].dropout == 0.0
    assert with_dtype(Bidirectional(LSTM(4)), "bfloat16").mixer.dtype == "bfloat16"


def test_attention_that_sees_all_tokens_has_no_carry():
    with pytest.raises(UsageError, match="causal=False sees all tokens at once"):
        model(Block(Attention(4, 4, causal=False))).init_carry(2, T)
