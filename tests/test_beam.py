"""Beam search: greedy with one beam, the best of all with all, and nothing lost between them."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixers import MODELS

from deeplearn.errors import UsageError
from deeplearn.models.sequence import SequenceModel
from deeplearn.sampling.autoregressive import Step, generate, prefill, step_of
from deeplearn.sampling.beam import beam_search
from deeplearn.sampling.sampler import Sampler
from deeplearn.types import Array, Variables

WORDS, COUNT, STOP = 4, 3, 2
PROMPTS = np.array([[3, 1, 0], [1, 0, 0]])
SEGMENTS = np.array([[1, 1, 1], [1, 0, 0]])
every_mixer = pytest.mark.parametrize("name", MODELS)
# One with a cache, one with a state: what the search does otherwise is the same for all.
two_mixers = pytest.mark.parametrize("name", ["attention", "lstm"])


@functools.cache
def built(name: str) -> tuple[SequenceModel, Variables]:
    module = MODELS[name]().copy(vocabulary=WORDS)
    return module, jax.jit(module.init)(jax.random.key(2), jnp.zeros((1, 4), jnp.int32))


@functools.cache
def searched(
    name: str, beams: int, penalty: float, count: int = COUNT, stop: tuple[int, ...] = (STOP,)
) -> tuple:
    module, variables = built(name)

    @jax.jit
    def search(tokens: Array, segments: Array) -> tuple[Array, Array]:
        step = step_of(module, variables)
        carry, last = prefill(step, module.init_carry(2, 3 + count), tokens, segments)
        return beam_search(
            step, carry, last, beams=beams, count=count, stop=stop, length_penalty=penalty
        )

    return tuple(np.asarray(leaf) for leaf in search(PROMPTS, SEGMENTS))


@functools.cache
def scores(name: str, penalty: float) -> list[dict[tuple[int, ...], float]]:
    """The score of every hypothesis of each prompt, by reading the whole of each."""
    module, variables = built(name)
    found = []
    for prompt, segments in zip(PROMPTS, SEGMENTS, strict=True):
        known = prompt[segments > 0]
        texts = np.array(
            [[*known, *text] for text in itertools.product(range(WORDS), repeat=COUNT)]
        )
        nats = np.asarray(jax.nn.log_softmax(jax.jit(module.apply)(variables, texts)[0]))
        table = {}
        for text, row in zip(texts, nats, strict=True):
            words = text[len(known) :]
            length = [*words, STOP].index(STOP) + 1
            length = min(length, COUNT)
            total = sum(row[len(known) - 1 + place, words[place]] for place in range(length))
            table[tuple(words[:length])] = total / ((5 + length) / 6) ** penalty
        found.append(table)
    return found


@two_mixers
def test_one_beam_is_greedy(name):
    greedy = generate(
        *built(name),
        [row[segments > 0] for row, segments in zip(PROMPTS, SEGMENTS, strict=True)],
        Sampler(8, temperature=0, stop=(STOP,)),
        jax.random.key(0),
    )
    np.testing.assert_array_equal(searched(name, 1, 0.6, 8)[0], greedy)


@two_mixers
@pytest.mark.parametrize("penalty", [0.0, 2.0])
def test_all_beams_find_the_best_of_all(name, penalty):
    texts, values = searched(name, WORDS**COUNT, penalty)
    for row, table in enumerate(scores(name, penalty)):
        best = max(table, key=table.__getitem__)
        wanted = [*best, *[STOP] * (COUNT - len(best))]
        assert texts[row].tolist() == wanted
        assert values[row] == pytest.approx(table[best], abs=1e-5)


@every_mixer
def test_a_score_is_that_of_the_text_it_comes_with(name):
    """The carry follows its hypothesis: read again, the text is as likely as was said."""
    module, variables = built(name)
    found, values = searched(name, 3, 0.0, count=10, stop=())
    lengths = SEGMENTS.sum(axis=1)
    texts = np.zeros((len(PROMPTS), 13), np.int32)
    for row, length in enumerate(lengths):
        texts[row, : length + 10] = [*PROMPTS[row, :length], *found[row]]
    nats = np.asarray(jax.nn.log_softmax(jax.jit(module.apply)(variables, texts)[0]))
    for row, length in enumerate(lengths):
        read = nats[row, np.arange(10) + length - 1, found[row]]
        assert values[row] == pytest.approx(read.sum(), abs=1e-4)


class Words:
    """A carry without a state: the next word depends on the last alone."""

    def take(self, rows: Array) -> Words:
        return self


jax.tree_util.register_pytree_node(Words, lambda _: ((), None), lambda *_: Words())


def chain(table: list[list[float]]) -> Step:
    """The step of a Markov chain with these probabilities."""
    logits = jnp.log(jnp.asarray(table))
    return lambda tokens, carry, segments: (logits[tokens], carry)


def test_of_any_chain_the_score_is_that_of_the_text_up_to_its_end(key):
    def search(table: Array) -> tuple[Array, Array]:
        start = jnp.zeros(1, jnp.int32)
        return beam_search(chain(table), Words(), start, beams=3, count=7, stop=(STOP,))

    tables = jax.nn.softmax(2 * jax.random.normal(key, (60, 4, 4)))
    lengths = set()
    for table, texts, values in zip(
        *map(np.asarray, (tables, *jax.jit(jax.vmap(search))(tables))), strict=True
    ):
        text = texts[0].tolist()
        length = min([*text, STOP].index(STOP) + 1, 7)
        assert text[length:] == [STOP] * (7 - length)
        total = np.log(table[[0, *text[: length - 1]], text[:length]]).sum()
        assert values[0] == pytest.approx(total / ((5 + length) / 6) ** 0.6, abs=1e-5)
        lengths.add(length)
    assert len(lengths) > 3


def test_a_wider_beam_finds_what_greedy_misses():
    # From 0, word 1 is likelier than 3, but leads nowhere likely.
    step = chain([[0, 0.6, 0, 0.4], [0.25] * 4, [0.25] * 4, [0, 0, 1.0, 0]])
    start = jnp.zeros(1, jnp.int32)
    search = functools.partial(beam_search, step, Words(), start, count=2, stop=(STOP,))
    assert search(beams=1, length_penalty=0.0)[0].tolist() != [[3, 2]]
    text, score = search(beams=2, length_penalty=0.0)
    assert text.tolist() == [[3, 2]]
    assert float(score[0]) == pytest.approx(np.log(0.4), abs=1e-6)


def test_a_higher_penalty_gives_a_longer_text():
    # To stop at once: 0.5; to go on through 1 for ever: 0.5 · 0.9 · 0.9 · …
    step = chain([[0, 0.5, 0.5, 0], [0, 0.9, 0.1, 0], [0.25] * 4, [0.25] * 4])
    start = jnp.zeros(1, jnp.int32)
    search = functools.partial(beam_search, step, Words(), start, beams=3, count=6, stop=(STOP,))
    assert search(length_penalty=0.0)[0].tolist() == [[STOP] * 6]
    assert search(length_penalty=2.0)[0].tolist() == [[1] * 6]


def test_the_search_ends_when_nothing_better_can_come():
    read = []

    def step(tokens: Array, carry: Words, segments: Array | None) -> tuple[Array, Words]:
        jax.debug.callback(lambda: read.append(1))
        return chain([[0.01, 0.01, 0.97, 0.01]] * 4)(tokens, carry, segments)

    text, _ = beam_search(
        step, Words(), jnp.zeros(2, jnp.int32), beams=2, count=50, stop=(STOP,), length_penalty=0.6
    )
    jax.block_until_ready(text)
    jax.effects_barrier()
    assert (text == STOP).all() and len(read) < 5


@pytest.mark.parametrize("fields", [{"beams": 0}, {"count": 0}, {"length_penalty": -1.0}])
def test_a_value_that_cannot_work_is_named(fields):
    known = {"beams": 1, "count": 1, "stop": (), **fields}
    with pytest.raises(UsageError, match=next(iter(fields))):
        beam_search(chain([[1.0]]), Words(), jnp.zeros(1, jnp.int32), **known)
