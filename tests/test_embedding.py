"""The embedding: rows by number, and NaN for a number outside the table."""

import jax.numpy as jnp
import numpy as np

from deeplearn.layers.embedding import Embedding


def test_looks_up_rows(key):
    layer = Embedding(5, 3)
    index = jnp.asarray([[0, 4], [2, 2]])
    y, variables = layer.init_with_output(key, index)
    table = np.asarray(variables["params"]["embedding"])
    np.testing.assert_array_equal(y, table[np.asarray(index)])


def test_a_number_outside_the_table_gives_nan(key):
    layer = Embedding(5, 3)
    variables = layer.init(key, jnp.asarray([0]))
    found = np.isnan(layer.apply(variables, jnp.asarray([-1, 0, 4, 5]))).all(axis=-1)
    assert found.tolist() == [True, False, False, True]
