"""Keys of examples: told apart by content, and the same as ever."""

import jax
import jax.numpy as jnp
import numpy as np

from deeplearn.tasks.example_keys import example_keys, fingerprint, token_fingerprint


def test_examples_that_differ_have_keys_of_their_own():
    """Also where only two numbers have changed places."""
    x = jnp.asarray([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0000002], [-1.0, 2.0]])
    tokens = jnp.asarray([[1, 2], [2, 1], [1, 3], [3, 0]])
    for numbers in (fingerprint(x), token_fingerprint(tokens)):
        keys = jax.random.key_data(example_keys(numbers))
        assert len(np.unique(keys, axis=0)) == len(keys)


def test_padding_with_tokens_of_0_changes_nothing():
    tokens = jnp.asarray([[1, 2, 3]])
    np.testing.assert_array_equal(
        token_fingerprint(tokens), token_fingerprint(jnp.pad(tokens, ((0, 0), (0, 2))))
    )


def test_reported_evaluations_rest_on_these_numbers():
    """What is drawn for an example must stay from version to version."""
    assert fingerprint(jnp.asarray([[1.0, 2.0]])).tolist() == [3815235138]
    assert token_fingerprint(jnp.asarray([[1, 2]])).tolist() == [2651132531]
