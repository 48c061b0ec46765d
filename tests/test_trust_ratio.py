"""The trust ratio of LAMB: each layer by itself, however its parameters are stored."""

import jax
import jax.numpy as jnp
import numpy as np

from deeplearn.optimizers import LAMB


def test_lamb_takes_each_of_stacked_layers_by_itself():
    kernels = [jnp.full((2, 2), 0.01), jnp.full((2, 2), 10.0)]
    alone = {f"layers_{index}": {"kernel": kernel} for index, kernel in enumerate(kernels)}
    stack = {"layers": {"kernel": jnp.stack(kernels)}}

    def moved(params):
        transform = LAMB(learning_rate=0.1).build(10)
        ones = jax.tree.map(jnp.ones_like, params)
        return transform.update(ones, transform.init(params), params)[0]

    single = [leaf["kernel"] for leaf in moved(alone).values()]
    np.testing.assert_allclose(moved(stack)["layers"]["kernel"], jnp.stack(single), rtol=1e-5)
    np.testing.assert_allclose(jnp.stack(single)[:, 0, 0], [-0.001, -1.0], rtol=1e-4)


def test_a_parameter_of_zeros_moves_by_lamb():
    params = {"dense": {"kernel": jnp.zeros((2, 2))}}
    transform = LAMB(learning_rate=0.1).build(10)
    ones = jax.tree.map(jnp.ones_like, params)
    update = transform.update(ones, transform.init(params), params)[0]
    np.testing.assert_allclose(update["dense"]["kernel"], -0.1, rtol=1e-4)
