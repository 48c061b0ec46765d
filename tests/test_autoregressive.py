"""Sampling token by token: the same text by every way there is to it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixers import MODELS, VOCABULARY, model

from deeplearn.errors import UsageError
from deeplearn.layers.attention import Attention
from deeplearn.models.sequence import Block, SequenceModel
from deeplearn.sampling import autoregressive
from deeplearn.sampling.autoregressive import begin, decode, generate, stream
from deeplearn.sampling.sampler import Sampler
from deeplearn.sampling.unrolled import unrolled
from deeplearn.types import Array, Variables

COUNT = 12
PROMPTS = ((3, 1, 4, 1, 5, 9, 2, 6), (5, 3), (7,))
KEY = jax.random.key(5)
every_mixer = pytest.mark.parametrize("name", MODELS)
# One with a cache, one with a state: what the loop does otherwise is the same for all.
two_mixers = pytest.mark.parametrize("name", ["attention", "lstm"])


@functools.cache
def built(name: str) -> tuple[SequenceModel, Variables]:
    module = MODELS[name]()
    return module, jax.jit(module.init)(jax.random.key(1), jnp.zeros((1, 4), jnp.int32))


@functools.cache
def generated(name: str, sampler: Sampler, prompts: tuple = PROMPTS) -> np.ndarray:
    return generate(*built(name), prompts, sampler, KEY)


def reread(name: str, prompts: tuple, count: int) -> np.ndarray:
    """The likeliest continuations, by the logits of the whole text for every token."""
    module, variables = built(name)
    read = jax.jit(lambda tokens: module.apply(variables, tokens)[0])
    texts = np.zeros((len(prompts), max(map(len, prompts)) + count), np.int32)
    lengths = np.array([len(prompt) for prompt in prompts])
    for row, prompt in enumerate(prompts):
        texts[row, : len(prompt)] = prompt
    rows = np.arange(len(prompts))
    for _ in range(count):
        logits = np.asarray(read(texts))[rows, lengths - 1]
        best = np.sort(logits, axis=-1)
        assert (best[:, -1] - best[:, -2] > 1e-4).all(), "logits too close for a comparison"
        texts[rows, lengths] = logits.argmax(-1)
        lengths += 1
    return np.stack([text[end - count : end] for text, end in zip(texts, lengths, strict=True)])


@every_mixer
def test_the_carry_says_what_reading_all_again_says(name):
    found = generated(name, Sampler(COUNT, temperature=0))
    np.testing.assert_array_equal(found, reread(name, PROMPTS, COUNT))
    assert len(np.unique(found)) > 3


@every_mixer
def test_a_row_depends_on_no_other(name):
    sampler = Sampler(COUNT, temperature=0)
    others = generate(*built(name), ((8, 9), *PROMPTS[1:]), sampler, KEY)
    np.testing.assert_array_equal(others[1:], generated(name, sampler)[1:])
    assert (others[0] != generated(name, sampler)[0]).any()


@two_mixers
def test_what_a_row_draws_depends_on_no_other(name):
    sampler = Sampler(COUNT, temperature=0.9, top_k=20, repetition_penalty=1.2)
    others = generate(*built(name), ((8, 9), *PROMPTS[1:]), sampler, KEY)
    np.testing.assert_array_equal(others[1:], generated(name, sampler)[1:])
    alone = generate(*built(name), PROMPTS[:1], sampler, KEY)
    np.testing.assert_array_equal(alone[0], generated(name, sampler)[0])


@two_mixers
def test_a_stream_is_the_text_made_in_one_go(name):
    sampler = Sampler(COUNT)
    chunks = list(stream(*built(name), PROMPTS, sampler, KEY, chunk=5))
    assert [part.shape[1] for part in chunks] == [5, 5, 2]
    np.testing.assert_array_equal(np.concatenate(chunks, axis=1), generated(name, sampler))


@two_mixers
def test_a_row_ends_with_its_stop_token_and_the_others_go_on(name):
    free = generated(name, Sampler(COUNT))
    stop = int(free[0, 4])
    found = generated(name, Sampler(COUNT, stop=(stop, VOCABULARY - 1)))
    ended = [np.flatnonzero((row == stop) | (row == VOCABULARY - 1)) for row in free]
    for row, places in enumerate(ended):
        end = places[0] if len(places) else COUNT - 1
        np.testing.assert_array_equal(found[row, : end + 1], free[row, : end + 1])
        assert (found[row, end:] == found[row, end]).all()
    assert len(ended[0]) and ended[0][0] <= 4


def test_a_stream_ends_with_its_last_row():
    sampler = Sampler(COUNT, temperature=0)
    free = generated("attention", sampler)
    stop = tuple({int(row[2]) for row in free})
    chunks = list(stream(*built("attention"), PROMPTS, Sampler(COUNT, 0, stop=stop), KEY, chunk=3))
    assert len(chunks) == 1


def test_another_key_draws_another_text():
    module, variables = built("attention")
    again = generate(module, variables, PROMPTS, Sampler(COUNT), jax.random.key(6))
    assert (again != generated("attention", Sampler(COUNT))).any(axis=1).all()
    same = ((5, 3), (5, 3))
    rows = generate(module, variables, same, Sampler(COUNT), KEY)
    assert (rows[0] != rows[1]).any()


def test_every_token_of_a_row_is_drawn_anew():
    """Any function can be the step: one without a preference draws all tokens alike."""

    def step(tokens: Array, carry: tuple, segments: Array | None) -> tuple[Array, tuple]:
        return jnp.zeros((*tokens.shape, 4)), carry

    tokens = jnp.zeros((2, 1), jnp.int32)
    state = begin(step, (), tokens, tokens + 1, KEY)
    found, _ = jax.jit(lambda state: decode(step, state, Sampler(), 400))(state)
    # Four deviations of a binomial share.
    for row in np.asarray(found):
        assert (abs(np.bincount(row, minlength=4) - 100) < 4 * (400 * 3 / 16) ** 0.5).all()
    assert 0.1 < (found[0] == found[1]).mean() < 0.4


def test_a_high_penalty_repeats_nothing_of_the_prompt_or_the_text():
    found = generated("attention", Sampler(COUNT, temperature=0, repetition_penalty=1e6))
    for prompt, row in zip(PROMPTS, found, strict=True):
        assert not set(prompt) & set(row.tolist())
        assert len(set(row.tolist())) == COUNT
    plain = generated("attention", Sampler(COUNT, temperature=0))
    assert any(len(set(row.tolist())) < COUNT for row in plain)


def test_prompts_and_counts_of_similar_length_share_a_program():
    module = model(Block(Attention(2, 8)))
    variables = jax.jit(module.init)(KEY, jnp.zeros((1, 4), jnp.int32))
    before = autoregressive._decode._cache_size(), autoregressive._begin._cache_size()
    for prompt, count in (((1, 2, 3), 10), ((4,), 9), (tuple(range(20)), 12)):
        sampler = Sampler(count, temperature=0.7)
        list(stream(model(Block(Attention(2, 8))), variables, (prompt,), sampler, KEY, chunk=4))
    after = autoregressive._decode._cache_size(), autoregressive._begin._cache_size()
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1]


def test_a_prompt_may_fill_the_model_to_its_last_token(key):
    short = model(Block(Attention(4, 4, rotary=None)), max_length=10, learned_positions=True)
    variables = jax.jit(short.init)(key, jnp.zeros((1, 4), jnp.int32))
    found = generate(short, variables, ((1, 2, 3, 4), (1,)), Sampler(6, temperature=0), KEY)
    assert found.shape == (2, 6)
    with pytest.raises(UsageError, match="4 tokens and count=7 exceed max_length=10"):
        generate(short, variables, ((1, 2, 3, 4), (1,)), Sampler(7), KEY)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ((), "needs a prompt"),
        (((1,), ()), "prompt 1 is empty"),
        (((1, VOCABULARY),), f"prompt 0 holds token {VOCABULARY}, outside"),
        (((1,), (-1, 2)), "prompt 1 holds token -1, outside"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused(prompts, message):
    with pytest.raises(UsageError, match=message):
        stream(*built("attention"), prompts, Sampler(), KEY)


def test_a_stop_token_outside_the_vocabulary_is_refused():
    with pytest.raises(UsageError, match="stop token 99 is outside"):
        stream(*built("attention"), PROMPTS, Sampler(stop=(99,)), KEY)
    with pytest.raises(UsageError, match="chunk=0"):
        stream(*built("attention"), PROMPTS, Sampler(), KEY, chunk=0)


@two_mixers
def test_an_unrolled_model_decodes_as_the_scanned_one(name):
    """Logits and carry, token by token; and its carry can be taken row by row."""
    (module, variables), flat = built(name), unrolled(*built(name))
    assert not flat[0].scan and unrolled(*flat)[0] is flat[0]
    tokens = jnp.asarray([[3, 1], [4, 5]])
    carries = []
    for model_, state in ((module, variables), flat):
        carry = model_.init_carry(2, 4)
        logits, carry = jax.jit(model_.apply)(state, tokens, carry)
        again, _ = jax.jit(model_.apply)(state, tokens[::-1], carry.take(jnp.asarray([1, 0])))
        carries.append((logits, again))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *carries)
