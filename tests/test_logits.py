"""The filters of logits against what they say, written out in NumPy for one row at a time."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from deeplearn.sampling.logits import keep_min_p, keep_top_k, keep_top_p, penalize_repetition

V = 7
# A few values, so that ties are common; thirds, so that no sum of probabilities is a round number.
rows = st.lists(st.integers(-9, 9).map(lambda n: n / 3), min_size=V, max_size=V)
tables = st.lists(rows, min_size=2, max_size=2).map(lambda table: np.array(table, np.float32))
shares = st.integers(1, 100).map(lambda n: n / 100)


def probabilities(row: np.ndarray) -> np.ndarray:
    weights = np.exp(row.astype(np.float64) - row.max())
    return weights / weights.sum()


def check(found: jax.Array, logits: np.ndarray, kept: list[set[int]]) -> None:
    for row, values, chosen in zip(np.asarray(found), logits, kept, strict=True):
        assert set(np.flatnonzero(np.isfinite(row))) == chosen
        np.testing.assert_array_equal(row[list(chosen)], values[list(chosen)])


def with_ties(row: np.ndarray, chosen: list[int]) -> set[int]:
    return {place for place in range(V) if row[place] >= row[chosen].min()}


@given(tables, st.integers(1, V + 2))
def test_top_k_keeps_the_k_likeliest(logits, k):
    kept = [with_ties(row, sorted(range(V), key=lambda i: -row[i])[:k]) for row in logits]
    check(keep_top_k(jnp.asarray(logits), k), logits, kept)


@given(tables, shares)
def test_top_p_keeps_the_fewest_that_reach_p(logits, p):
    kept = []
    for row in logits:
        probability, chosen, mass = probabilities(row), [], 0.0
        for place in sorted(range(V), key=lambda i: -row[i]):
            assume(not chosen or abs(mass - p) > 1e-5)
            if chosen and mass >= p:
                break
            chosen.append(place)
            mass += probability[place]
        kept.append(with_ties(row, chosen))
    check(keep_top_p(jnp.asarray(logits), p), logits, kept)


@given(tables, shares)
def test_min_p_keeps_what_is_p_times_as_likely_as_the_likeliest(logits, p):
    kept = []
    for row in logits:
        share = probabilities(row) / probabilities(row).max()
        assume((abs(share - p) > 1e-5).all() or p == 1)
        kept.append(set(np.flatnonzero(share >= p)))
    check(keep_min_p(jnp.asarray(logits), p), logits, kept)


@given(tables, st.lists(st.booleans(), min_size=2 * V, max_size=2 * V), st.floats(1.0, 3.0))
def test_the_penalty_makes_seen_tokens_less_likely_and_no_other(logits, seen, penalty):
    seen = np.array(seen).reshape(2, V)
    found = np.asarray(penalize_repetition(jnp.asarray(logits), jnp.asarray(seen), penalty))
    for row, place in np.ndindex(logits.shape):
        value = float(logits[row, place])
        wanted = value - abs(value) * (1 - 1 / penalty if value > 0 else penalty - 1)
        wanted = wanted if seen[row, place] else value
        assert math.isclose(found[row, place], wanted, rel_tol=1e-5, abs_tol=1e-6)


def test_filters_leave_out_what_an_earlier_one_left_out():
    logits = jnp.asarray([[3.0, 2.0, 1.0, 0.0]])
    first = keep_top_k(logits, 2)
    for again in (keep_top_p(first, 0.999999), keep_min_p(first, 0.01), keep_top_k(first, 3)):
        np.testing.assert_array_equal(again, first)
