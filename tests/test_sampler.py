"""The options of sampling: what they refuse, and how often each token is drawn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.sampling.sampler import Sampler

ROWS = 20_000
LOGITS = np.log(np.array([0.05, 0.4, 0.15, 0.3, 0.1], np.float32))


def shares(sampler: Sampler, key: jax.Array, logits: np.ndarray = LOGITS) -> np.ndarray:
    """How often each token is drawn."""
    tiled = jnp.broadcast_to(jnp.asarray(logits)[None], (ROWS, len(logits)))
    seen = jnp.zeros(tiled.shape, bool)
    tokens = jax.jit(sampler.choose)(tiled, seen, jax.random.split(key, ROWS))
    return np.bincount(tokens, minlength=len(logits)) / ROWS


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, [0.05, 0.4, 0.15, 0.3, 0.1]),
        ({"temperature": 0.5}, np.array([0.0025, 0.16, 0.0225, 0.09, 0.01]) / 0.285),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.75}, [0, 8 / 17, 3 / 17, 6 / 17, 0]),
        ({"min_p": 0.7}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"temperature": 0}, [0, 1, 0, 0, 0]),
        # After top-k, 4/7 of what is left is 0.4: the order of the two filters counts.
        ({"top_k": 2, "top_p": 0.5}, [0, 1, 0, 0, 0]),
        # The temperature comes before min-p.
        ({"temperature": 0.5, "min_p": 0.7}, [0, 1, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_as_often_as_the_options_say(key, fields, wanted):
    # Four standard deviations of a share.
    np.testing.assert_allclose(shares(Sampler(**fields), key), wanted, atol=4 * 0.5 / ROWS**0.5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_penalty_is_applied_to_greedy_and_drawn_tokens(temperature):
    sampler = Sampler(temperature=temperature, repetition_penalty=2.0)
    logits, seen = jnp.asarray([[2.0, 1.5, -1.0]]), jnp.asarray([[True, False, True]])
    np.testing.assert_allclose(sampler.filtered(logits, seen), [[1.0, 1.5, -2.0]])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 2.0),
        ("repetition_penalty", 0.0),
    ],
)
def test_a_value_that_cannot_work_is_named(field, value):
    with pytest.raises(UsageError, match=f"{field}={value} must be"):
        Sampler(**{field: value})
