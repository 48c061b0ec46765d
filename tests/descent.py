"""A small tree of parameters, and the steps that an optimizer takes on it or down a loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

PARAMS = {
    "embed": {"embedding": jnp.full((4, 3), 0.5)},
    "dense": {"kernel": jnp.arange(6.0).reshape(3, 2) / 5 - 0.4, "bias": jnp.asarray([0.3, -0.7])},
    "norm": {"scale": jnp.ones(2)},
    "ssm": {"A_log": jnp.ones(3), "D": jnp.ones(3), "dt_bias": jnp.ones(3)},
}
GRADIENTS = jax.tree.map(lambda p: jnp.cos(7 * p) + 0.1, PARAMS)


def descend(optimizer, loss, params, steps):
    """Parameters after `steps` steps, the optimizer's last state, parameters before each step."""
    transform = optimizer.build(steps)

    def step(carry, _):
        params, state = carry
        updates, state = transform.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), params

    run = jax.jit(lambda params: jax.lax.scan(step, (params, transform.init(params)), length=steps))
    (params, state), history = run(params)
    return params, state, history


def one_update(optimizer, gradients=GRADIENTS):
    """What the first step adds to `PARAMS`."""
    transform = optimizer.build(10)
    return jax.jit(transform.update)(gradients, transform.init(PARAMS), PARAMS)[0]


def quadratic(params):
    """A loss of w (3,) that is lowest, 0, at 1."""
    scales = jnp.asarray([1.0, 3.0, 10.0])
    return (scales * jnp.square(params["w"] - 1.0)).sum()
