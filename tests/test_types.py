"""Means add up, whatever the parts, and count nothing that is masked; where documents begin."""

import math

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deeplearn.types import Context, ExponentialMean, Mean


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=20), st.data())
def test_the_mean_of_parts_is_the_mean_of_the_whole(numbers, data):
    values = np.array(numbers, np.float32)
    cut = data.draw(st.integers(1, len(values) - 1))
    parts = Mean.of(values[:cut]) + Mean.of(values[cut:])
    np.testing.assert_allclose(parts.value, values.mean(), rtol=1e-4, atol=1e-3)


def test_a_masked_place_counts_nothing_even_where_it_is_nan():
    mean = Mean.of(jnp.array([1.0, jnp.nan, 4.0, 9.0]), jnp.array([1.0, 0.0, 3.0, -2.0]))
    assert float(mean.total) == 13.0 and float(mean.weight) == 4.0


def test_a_mean_of_nothing_is_0():
    assert float(Mean.of(jnp.array([jnp.nan]), jnp.array([0.0])).value) == 0.0


def test_an_exponential_mean_is_shown_as_its_exponential():
    assert ExponentialMean.shown(2.0) == math.exp(2.0)
    assert ExponentialMean.shown(1e4) == math.inf
    assert math.isnan(ExponentialMean.shown(math.nan))


def test_a_document_begins_at_position_0_and_where_it_is_another():
    segments = jnp.asarray([[1, 1, 0, 2, 2]])
    positions = jnp.asarray([[7, 0, 0, 8, 9]])
    changes = jnp.asarray([[False, False, True, True, False]])
    assert Context(segments, positions).resets.tolist() == [[False, True, False, False, False]]
    found = Context(segments, positions, changes=changes).resets
    assert found.tolist() == [[False, True, False, True, False]]
    assert Context(None, positions).resets is None
