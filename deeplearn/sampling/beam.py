"""Beam search over a step, for translation.

Source: Sutskever et al. 2014 (arXiv:1409.3215); the length penalty is that of Wu et al. 2016
(arXiv:1609.08144), section 7:

    score(Y) = log P(Y) / ((5 + |Y|) / 6)^α

A hypothesis that has ended stays in the beam with its score and competes with those that go on.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from deeplearn.errors import UsageError
from deeplearn.sampling.autoregressive import Step, is_stop
from deeplearn.types import Array, PyTree


@struct.dataclass
class _Beams:
    """W hypotheses of each of B rows: `tokens` (B, W, count), the other arrays (B, W).

    `total` is log P in nats; the rows of the carry are B·W.
    """

    carry: PyTree
    tokens: Array
    token: Array
    total: Array
    length: Array
    done: Array
    index: Array


def beam_search(
    step: Step,
    carry: Any,
    token: Array,
    *,
    beams: int,
    count: int,
    stop: tuple[int, ...],
    length_penalty: float = 0.6,
) -> tuple[Array, Array]:
    """The best continuation (B, count) found with `beams` hypotheses, and its score (B,).

    `token` (B,) is the last of what is known and `carry` what was before; see `prefill`. The carry
    has a method `take(rows)`, as that of a sequence model. `length_penalty` is α. What has ended
    repeats its stop token. One beam is greedy decoding.
    """
    if beams < 1 or count < 1:
        raise UsageError(f"beam search: beams={beams} and count={count} must be 1 or more")
    if length_penalty < 0:
        raise UsageError(f"beam search: length_penalty={length_penalty} must be 0 or more")

    def penalty(length: Array | int) -> Array:
        return ((5.0 + jnp.asarray(length)) / 6.0) ** length_penalty

    def goes_on(state: _Beams) -> Array:
        ended = jnp.where(state.done, state.total / penalty(state.length), -jnp.inf).max(axis=1)
        # No hypothesis that goes on can come to more than this.
        hoped = jnp.where(state.done, -jnp.inf, state.total / penalty(count)).max(axis=1)
        return (state.index < count) & (ended <= hoped).any()

    def extend(state: _Beams) -> _Beams:
        return _extend(step, state, stop, penalty)

    end = jax.lax.while_loop(goes_on, extend, _start(carry, token, beams, count))
    scores = end.total / penalty(end.length)
    best = scores.argmax(axis=1)[:, None]
    tokens = jnp.take_along_axis(end.tokens, best[..., None], axis=1)[:, 0]
    length, last, score = (
        jnp.take_along_axis(leaf, best, axis=1) for leaf in (end.length, end.token, scores)
    )
    return jnp.where(jnp.arange(count)[None] < length, tokens, last), score[:, 0]


def _start(carry: Any, token: Array, beams: int, count: int) -> _Beams:
    rows = jnp.arange(len(token))
    shape = (len(token), beams)
    # All hypotheses of a row are equal as yet: only the first may go on.
    total = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)
    return _Beams(
        carry.take(jnp.repeat(rows, beams)),
        jnp.zeros((*shape, count), token.dtype),
        jnp.broadcast_to(token[:, None], shape),
        jnp.broadcast_to(total[None], shape),
        jnp.zeros(shape, jnp.int32),
        jnp.zeros(shape, bool),
        jnp.int32(0),
    )


def _extend(step: Step, state: _Beams, stop: tuple[int, ...], penalty: Any) -> _Beams:
    rows, beams = state.token.shape
    logits, carry = step(state.token.reshape(-1, 1), state.carry, None)
    words = logits.shape[-1]
    nats = jax.nn.log_softmax(logits[:, 0]).reshape(rows, beams, words)
    # A hypothesis that has ended goes on in one way, and for nothing.
    same = jnp.arange(words)[None, None] == state.token[..., None]
    nats = jnp.where(state.done[..., None], jnp.where(same, 0.0, -jnp.inf), nats)
    total = (state.total[..., None] + nats).reshape(rows, -1)
    length = state.length + ~state.done
    score = total.reshape(nats.shape) / penalty(length)[..., None]
    _, place = jax.lax.top_k(score.reshape(rows, -1), beams)
    beam, token = place // words, (place % words).astype(state.token.dtype)

    def of_beam(leaf: Array) -> Array:
        return jnp.take_along_axis(leaf, beam, axis=1)

    tokens = jnp.take_along_axis(state.tokens, beam[..., None], axis=1)
    return _Beams(
        carry.take((jnp.arange(rows)[:, None] * beams + beam).reshape(-1)),
        tokens.at[:, :, state.index].set(token),
        token,
        jnp.take_along_axis(total, place, axis=1),
        of_beam(length),
        of_beam(state.done) | is_stop(token, stop),
        state.index + 1,
    )
