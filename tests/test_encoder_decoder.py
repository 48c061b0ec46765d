"""Encoder–decoders: what the decoder sees, and that steps equal reading all at once."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.layers.attention import Attention
from deeplearn.models.bert import BERT
from deeplearn.models.encoder_decoder import (
    EncoderDecoder,
    lstm_encoder_decoder,
    transformer_encoder_decoder,
    with_memory,
)
from deeplearn.models.sequence import Block, Carry, SequenceModel
from deeplearn.sampling.autoregressive import begin, decode, step_of
from deeplearn.sampling.sampler import Sampler
from deeplearn.sampling.unrolled import unrolled
from deeplearn.types import Array, Variables

MODELS = {
    "transformer": lambda: transformer_encoder_decoder(
        13, 17, width=16, depth=2, heads=2, features=24, dropout=0.0
    ),
    "lstm": lambda: lstm_encoder_decoder(13, 17, width=16, depth=2),
    "bert": lambda: EncoderDecoder(
        BERT(13, width=12, depth=1, heads=2, features=16, dropout=0.0),
        lstm_encoder_decoder(13, 17, width=16, depth=1, heads=2).decoder,
    ),
}
SOURCE = jnp.asarray([[5, 3, 9, 2, 7, 0, 0], [4, 8, 2, 6, 3, 10, 12]])
TARGET = jnp.asarray([[1, 14, 3, 7, 2, 9], [1, 3, 15, 5, 8, 4]])
every_model = pytest.mark.parametrize("name", MODELS)


@functools.cache
def built(name: str) -> tuple[EncoderDecoder, Variables]:
    """A model and its variables, with larger kernels so that every influence is seen."""
    model = MODELS[name]()
    init = jax.jit(functools.partial(model.init, method="teacher_forced"))
    variables = init(jax.random.key(1), SOURCE, TARGET)
    return model, jax.tree_util.tree_map_with_path(
        lambda path, leaf: 5 * leaf if path[-1].key == "kernel" else leaf, variables
    )


def forced(name: str, source: Array, target: Array, segments: tuple = (None, None)) -> Array:
    return _forced(*built(name), source, target, segments)


@functools.partial(jax.jit, static_argnums=0)
def _forced(
    model: EncoderDecoder, variables: Variables, source: Array, target: Array, segments: tuple
) -> Array:
    return model.apply(
        variables,
        source,
        target,
        source_segments=segments[0],
        segments=segments[1],
        method="teacher_forced",
    )


@functools.partial(jax.jit, static_argnums=0)
def step(
    model: EncoderDecoder, variables: Variables, tokens: Array, carry: Carry
) -> tuple[Array, Carry]:
    return model.apply(variables, tokens, carry)


@functools.partial(jax.jit, static_argnums=0)
def encode(model: EncoderDecoder, variables: Variables) -> tuple:
    return model.apply(variables, SOURCE, method="encode")


@functools.partial(jax.jit, static_argnums=0)
def start(model: EncoderDecoder, variables: Variables) -> Carry:
    return model.apply(variables, SOURCE, 6, method="start")


@functools.cache
def influence(name: str) -> dict[str, np.ndarray]:
    """How much the first row's logits at place 2 change with the embeddings of each side: (V,)."""
    model, variables = built(name)
    # Untied, since the target's embedding is the output kernel too.
    model = model.copy(decoder=model.decoder.copy(tied=False))
    params = variables["params"]
    kernel = params["decoder"]["embedding"]["embedding"].T
    params = {**params, "decoder": {**params["decoder"], "output": kernel}}

    def output(tables: dict[str, Array]) -> Array:
        changed = {
            side: {**params[side], "embedding": {"embedding": tables[side]}} for side in tables
        }
        logits = model.apply(
            {"params": {**params, **changed}}, SOURCE, TARGET, method="teacher_forced"
        )
        return jnp.square(logits[0, 2]).sum()

    tables = {side: params[side]["embedding"]["embedding"] for side in ("encoder", "decoder")}
    return {side: np.abs(found).max(1) for side, found in jax.jit(jax.grad(output))(tables).items()}


@every_model
def test_no_output_depends_on_a_later_token_of_the_target(name):
    found = influence(name)["decoder"][TARGET[0]]
    assert (found[:3] > 0).all()
    assert (found[3:] == 0).all()


@every_model
def test_every_token_of_the_source_counts_and_padding_does_not(name):
    found = influence(name)["encoder"]
    row = np.asarray(SOURCE[0])
    assert (found[row[row > 0]] > 0).all()
    assert found[0] == 0


@every_model
def test_padding_of_any_length_changes_nothing(name):
    whole = forced(name, SOURCE, TARGET)
    alone = forced(name, SOURCE[:1, :5], TARGET[:1])
    np.testing.assert_allclose(whole[0], alone[0], atol=1e-5)
    longer = jnp.pad(SOURCE, ((0, 0), (0, 3)))
    np.testing.assert_allclose(forced(name, longer, TARGET), whole, atol=1e-5)


@every_model
@pytest.mark.parametrize("splits", [[1, 2, 3, 4, 5], [4]])
def test_steps_with_a_carry_equal_teacher_forcing(name, splits):
    model, variables = built(name)
    carry = start(model, variables)
    logits = []
    for tokens in jnp.split(TARGET, splits, axis=1):
        part, carry = step(model, variables, tokens, carry)
        logits.append(part)
    np.testing.assert_allclose(
        jnp.concatenate(logits, 1), forced(name, SOURCE, TARGET), atol=1e-5, rtol=1e-5
    )
    assert carry.position.tolist() == [6, 6]


@pytest.mark.parametrize("name", ["transformer", "lstm"])
def test_the_sampler_goes_on_from_a_started_carry_as_reading_all_again_does(name, key):
    model, variables = built(name)
    sample = step_of(model, variables)

    @jax.jit
    def written(source: Array, begun: Array) -> Array:
        carry = model.apply(variables, source, 6, method="start")
        state = begin(sample, carry, begun, jnp.ones_like(begun), key)
        return decode(sample, state, Sampler(4, temperature=0), 4)[0]

    begun = TARGET[:, :2]
    texts = np.zeros_like(TARGET)
    texts[:, :2] = begun
    for place in range(2, 6):
        texts[:, place] = forced(name, SOURCE, texts)[:, place - 1].argmax(-1)
    np.testing.assert_array_equal(written(SOURCE, begun), texts[:, 2:])
    assert (written(SOURCE[::-1], begun) != texts[:, 2:]).any()


@every_model
def test_a_memory_is_encoded_once_and_enters_any_carry(name):
    model, variables = built(name)
    memory = encode(model, variables)
    carry = with_memory(model.init_carry(2, 6), memory)
    started = start(model, variables)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), carry, started)
    _, after = step(model, variables, TARGET, carry)
    for old, new in zip(memory, after.layers, strict=True):
        if old is not None:
            jax.tree.map(np.testing.assert_array_equal, old, new)


@every_model
def test_pairs_packed_in_one_row_equal_separate_ones(name):
    source = jnp.concatenate([SOURCE[:1, :5], SOURCE[1:]], axis=1)
    target = jnp.concatenate([TARGET[:1, :4], TARGET[1:]], axis=1)
    segments = jnp.asarray([[1] * 5 + [2] * 7]), jnp.asarray([[1] * 4 + [2] * 6])
    packed = forced(name, source, target, segments)
    first = forced(name, SOURCE[:1, :5], TARGET[:1, :4])
    second = forced(name, SOURCE[1:], TARGET[1:])
    np.testing.assert_allclose(packed, jnp.concatenate([first, second], 1), atol=1e-5)


def test_a_decoder_without_scan_decodes_the_same():
    model, variables = built("transformer")
    decoder, of_decoder = unrolled(model.decoder, {"params": variables["params"]["decoder"]})
    model = model.copy(decoder=decoder)
    params = {**variables["params"], "decoder": of_decoder["params"]}
    whole = _forced(model, {"params": params}, SOURCE, TARGET, (None, None))
    np.testing.assert_allclose(whole, forced("transformer", SOURCE, TARGET), atol=1e-5)
    carry = start(model, {"params": params})
    first, carry = step(model, {"params": params}, TARGET[:, :2], carry)
    second, _ = step(model, {"params": params}, TARGET[:, 2:], carry)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, atol=1e-5)


def test_the_layers_of_the_decoder_have_memories_of_their_own():
    model, variables = built("transformer")
    _, memory = encode(model, variables)
    assert memory.keys.shape == memory.values.shape == (2, 2, 7, 2, 8)
    assert memory.segments.shape == (2, 2, 7)
    assert not np.allclose(memory.keys[0], memory.keys[1])
    assert not np.allclose(memory.keys[0], memory.values[0])


def test_the_base_size_counts_as_published():
    """60.4 M of the 65 M of Vaswani et al., which counts embeddings of 37,000 words once."""
    model = transformer_encoder_decoder(8, 8)
    tokens = jnp.zeros((1, 2), jnp.int32)
    shapes = jax.eval_shape(
        functools.partial(model.init, method="teacher_forced"), jax.random.key(0), tokens, tokens
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    # A layer: 4·D² for each attention, 2·D·F + F + D for the feed-forward, D for each norm.
    attention, feed_forward = 4 * 512**2, 2 * 512 * 2048 + 2048 + 512
    layers = 6 * (attention + feed_forward + 2 * 512) + 6 * (2 * attention + feed_forward + 3 * 512)
    assert count == layers + 2 * 512 + 2 * 8 * 512


def test_gradients_in_bfloat16_are_finite_and_dropout_acts_in_training_only():
    model = transformer_encoder_decoder(13, 17, 16, 1, 2, 24, dropout=0.3, dtype="bfloat16")
    init = functools.partial(model.init, method="teacher_forced")
    variables = jax.jit(init)(jax.random.key(0), SOURCE, TARGET)

    @jax.jit
    @jax.value_and_grad
    def loss(variables: Variables, rng: Array) -> Array:
        logits = model.apply(
            variables, SOURCE, TARGET, train=True, rngs={"dropout": rng}, method="teacher_forced"
        )
        assert logits.dtype == jnp.float32
        return jnp.square(logits).mean()

    (first, gradients), (second, _) = (loss(variables, jax.random.key(seed)) for seed in (0, 1))
    assert first != second
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradients))


def test_a_decoder_that_never_looks_is_refused(key):
    decoder = SequenceModel(17, 16, 1, (Block(Attention(2, 8)),))
    model = EncoderDecoder(MODELS["transformer"]().encoder, decoder)
    with pytest.raises(UsageError, match="holds no CrossAttention"):
        model.init(key, SOURCE, TARGET, method="teacher_forced")


@every_model
def test_decoding_without_a_memory_is_refused(name):
    model, variables = built(name)
    for carry in (None, model.init_carry(2, 6)):
        with pytest.raises(UsageError, match="got no memory"):
            model.apply(variables, TARGET, carry)


def test_an_encoder_that_reads_both_ways_takes_no_carry():
    with pytest.raises(UsageError, match="belongs in an encoder"):
        MODELS["lstm"]().encoder.init_carry(1, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: transformer_encoder_decoder(8, 8, width=20, heads=3), "width=20 must be heads=3"),
        (lambda: lstm_encoder_decoder(8, 8, width=7, depth=1), "width=7 must be even"),
        (lambda: lstm_encoder_decoder(8, 8, width=8, depth=1, heads=0), "heads=0 of lstm"),
        (lambda: transformer_encoder_decoder(8, 8, depth=0), "depth=0 of transformer"),
        (lambda: transformer_encoder_decoder(8, 8, heads=0), "heads=0 of transformer"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()
