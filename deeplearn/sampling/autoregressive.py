"""Sampling token by token, for every model that is a step: (tokens, carry) → (logits, carry).

`begin` reads the prompts and `decode` is the one loop; both are pure and take any step, such as
that of a sequence model (`step_of`) or of a decoder with a memory in its carry. `generate` and
`stream` are these two compiled, for a sequence model: the loop is entered again and again.

Every row has random numbers of its own, by its place and the number of tokens it has drawn: what a
row says depends neither on its neighbours nor on the chunks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from deeplearn.errors import UsageError
from deeplearn.models.sequence import SequenceModel
from deeplearn.sampling.sampler import Sampler
from deeplearn.sampling.unrolled import unrolled
from deeplearn.types import Array, PyTree, Variables

Step = Callable[[Array, PyTree, Array | None], tuple[Array, PyTree]]
"""tokens (B, T), carry, segments (B, T) or None → logits (B, T, V), carry."""

BUCKET = 32
"""Lengths are rounded up to a multiple of this, so that similar prompts share a program."""


@dataclass(frozen=True)
class Request:
    """What a task is asked to write: continuations of `prompts`, rows of tokens."""

    prompts: tuple[tuple[int, ...], ...]
    sampler: Sampler


@struct.dataclass
class State:
    """Where decoding stands: the carry, and of each row the last token, which it has not read.

    `seen` (bool, (B, V)) are the tokens of a row so far, `index` counts the tokens drawn.
    """

    carry: PyTree
    token: Array
    done: Array
    keys: Array
    index: Array
    seen: Array


def step_of(model: nn.Module, variables: Variables) -> Step:
    """The step of a model that is called as a sequence model is."""

    def step(tokens: Array, carry: PyTree, segments: Array | None) -> tuple[Array, PyTree]:
        after: Any = model.apply(variables, tokens, carry, segments=segments)
        return after

    return step


def prefill(step: Step, carry: PyTree, tokens: Array, segments: Array) -> tuple[PyTree, Array]:
    """Reads prompts (B, T) but for the last token (B,) of each, which is returned.

    `segments` (B, T) is 1 for tokens and 0 for the padding on their right. The last token is left
    to the loop, so that the logits of the prompts are never computed.
    """
    if tokens.shape[1] > 1:
        _, carry = step(tokens[:, :-1], carry, segments[:, 1:])
    last = (segments > 0).sum(axis=1, keepdims=True) - 1
    return carry, jnp.take_along_axis(tokens, last, axis=1)[:, 0]


def begin(step: Step, carry: PyTree, tokens: Array, segments: Array, rng: Array) -> State:
    """The state behind the prompts (B, T); see `prefill`."""
    rows = jnp.arange(len(tokens))
    words = jax.eval_shape(step, tokens[:, :1], carry, None)[0].shape[-1]
    # Padding is written to a place that does not exist, which is dropped.
    places = jnp.where(segments > 0, tokens, words)
    seen = jnp.zeros((len(tokens), words), bool).at[rows[:, None], places].set(True, mode="drop")
    carry, last = prefill(step, carry, tokens, segments)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, rows)
    return State(carry, last, jnp.zeros(len(tokens), bool), keys, jnp.int32(0), seen)


def decode(step: Step, state: State, sampler: Sampler, length: int) -> tuple[Array, State]:
    """The next `length` tokens (B, length), and the state behind them.

    A row that has ended repeats its stop token; the loop ends with the last of the rows.
    """
    start = state.index
    buffer = jnp.zeros((len(state.token), length), state.token.dtype)

    def goes_on(loop: tuple[State, Array]) -> Array:
        return (loop[0].index - start < length) & ~loop[0].done.all()

    def advance(loop: tuple[State, Array]) -> tuple[State, Array]:
        state, buffer = loop
        place = state.index - start
        state = draw(step, state, sampler)
        return state, buffer.at[:, place].set(state.token)

    state, buffer = jax.lax.while_loop(goes_on, advance, (state, buffer))
    behind = jnp.arange(length)[None] >= state.index - start
    return jnp.where(behind, state.token[:, None], buffer), state


def draw(step: Step, state: State, sampler: Sampler) -> State:
    """Reads the last token of each row and draws the next."""
    logits, carry = step(state.token[:, None], state.carry, None)
    keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.index)
    token = sampler.choose(logits[:, 0], state.seen, keys).astype(state.token.dtype)
    token = jnp.where(state.done, state.token, token)
    done = state.done | is_stop(token, sampler.stop)
    seen = state.seen.at[jnp.arange(len(token)), token].set(True)
    return State(carry, token, done, state.keys, state.index + 1, seen)


def is_stop(token: Array, stop: tuple[int, ...]) -> Array:
    """Whether each token is one of `stop`."""
    return functools.reduce(jnp.logical_or, (token == word for word in stop), token != token)


def generate(
    model: SequenceModel,
    variables: Variables,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    rng: Array,
) -> np.ndarray:
    """The continuations (B, count) of B prompts; a row that has ended repeats its stop token.

    Raises `UsageError` where a prompt is empty, holds what is no token, or is too long.
    """
    return next(stream(model, variables, prompts, sampler, rng, chunk=sampler.count))


def stream(
    model: SequenceModel,
    variables: Variables,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    rng: Array,
    chunk: int = 8,
) -> Iterator[np.ndarray]:
    """As `generate`, at once as far as it is known: (B, K) with K ≤ `chunk`, until all rows end."""
    longest = _check(model, prompts, sampler)
    if chunk < 1:
        raise UsageError(f"sampling: chunk={chunk} must be 1 or more")
    limit = model.max_length or longest + sampler.count + BUCKET
    capacity = min(_rounded(longest + sampler.count), limit)
    tokens = np.zeros((len(prompts), min(_rounded(longest), limit)), np.int32)
    segments = np.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)], segments[row, : len(prompt)] = prompt, 1
    if jax.default_backend() == "cpu":
        model, variables = unrolled(model, variables)
    state = _begin(model, variables, tokens, segments, rng, capacity)
    return _chunks(model, variables, state, sampler, chunk)


def _chunks(
    model: SequenceModel, variables: Variables, state: State, sampler: Sampler, chunk: int
) -> Iterator[np.ndarray]:
    # The loop never reads the count, which would make a program of each.
    alike = dataclasses.replace(sampler, count=chunk)
    for start in range(0, sampler.count, chunk):
        tokens, state = _decode(model, variables, state, alike, chunk)
        yield np.asarray(tokens)[:, : sampler.count - start]
        if state.done.all():
            return


@functools.partial(jax.jit, static_argnames=("model", "capacity"))
def _begin(
    model: SequenceModel,
    variables: Variables,
    tokens: Array,
    segments: Array,
    rng: Array,
    capacity: int,
) -> State:
    carry = model.init_carry(len(tokens), capacity, model.dtype)
    return begin(step_of(model, variables), carry, tokens, segments, rng)


# The carry is given up to the loop, which changes it in place.
@functools.partial(jax.jit, static_argnames=("model", "sampler", "length"), donate_argnames="state")
def _decode(
    model: SequenceModel, variables: Variables, state: State, sampler: Sampler, length: int
) -> tuple[Array, State]:
    return decode(step_of(model, variables), state, sampler, length)


def _rounded(length: int) -> int:
    return -(-length // BUCKET) * BUCKET


def _check(model: SequenceModel, prompts: Sequence[Sequence[int]], sampler: Sampler) -> int:
    """The length of the longest prompt; `UsageError` where the model cannot go on from one."""
    words = model.vocabulary
    if not len(prompts):
        raise UsageError("sampling needs a prompt; give at least one row of tokens")
    for row, prompt in enumerate(prompts):
        if not len(prompt):
            raise UsageError(f"prompt {row} is empty; give it at least one token")
        wrong = [token for token in prompt if not 0 <= token < words]
        if wrong:
            raise UsageError(
                f"prompt {row} holds token {wrong[0]}, outside the vocabulary [0, {words - 1}]; use"
                " the vocabulary that the model was trained with"
            )
    wrong = [token for token in sampler.stop if not 0 <= token < words]
    if wrong:
        raise UsageError(f"stop token {wrong[0]} is outside the vocabulary [0, {words - 1}]")
    longest = max(map(len, prompts))
    if model.max_length is not None and longest + sampler.count > model.max_length:
        raise UsageError(
            f"a prompt of {longest} tokens and count={sampler.count} exceed"
            f" max_length={model.max_length} of the model; shorten the prompt or the count"
        )
    return longest
