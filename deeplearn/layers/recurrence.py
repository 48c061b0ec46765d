"""Linear recurrences over time, and the front of the selective scan.

A linear recurrence is the core of a state space model (Gu & Dao 2023, arXiv:2312.00752) and of the
minimal gated networks (Feng et al. 2024, arXiv:2410.01201). It is associative (Blelloch 1990), so
it runs token by token or as a tree.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from deeplearn.errors import UsageError, did_you_mean
from deeplearn.types import Array

# A tree over all tokens keeps several copies of its inputs; over so many at a time, few.
_TREE = 256


def linear_recurrence(
    decay: Array, inputs: Array, state: Array | None = None, implementation: str | None = None
) -> tuple[Array, Array]:
    """h_t = a_t · h_{t−1} + b_t for decay a and inputs b (B, T, …): all states, and the last.

    `state` (B, …) is h before the first token (None: 0). A decay of 0 begins anew; a decay of 1
    with input 0 holds. States are computed in fp32 or wider; the last is returned so, all in the
    dtype of the inputs. `implementation` is "sequential", "associative" or None: by the backend.
    """
    check_implementation(implementation, ("sequential", "associative"))
    wide = jnp.promote_types(inputs.dtype, jnp.float32)
    a, b = (jnp.moveaxis(x, 1, 0).astype(wide) for x in (decay, inputs))
    first = jnp.zeros_like(b[0]) if state is None else state.astype(wide)
    if implementation is None:
        implementation = "sequential" if jax.default_backend() == "cpu" else "associative"
    states = recur(a, b, first, implementation)
    return jnp.moveaxis(states, 0, 1).astype(inputs.dtype), states[-1]


def check_implementation(name: str | None, known: tuple[str, ...]) -> None:
    """Raises `UsageError` unless `name` is None or known."""
    if name is not None and name not in known:
        raise UsageError(f"implementation={name!r} is not known{did_you_mean(str(name), known)}")


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def recur(a: Array, b: Array, first: Array, implementation: str) -> Array:
    """The states (T, …) of h_t = a_t · h_{t−1} + b_t after `first` (…); a and b are (T, …)."""
    if implementation == "sequential":
        return lax.scan(lambda h, ab: (ab[0] * h + ab[1],) * 2, first, (a, b))[1]
    steps = len(a)
    size = min(_TREE, steps)
    around = ((0, -steps % size), *((0, 0),) * first.ndim)
    chunks = [
        jnp.pad(x, around, constant_values=held).reshape(-1, size, *first.shape)
        for x, held in ((a, 1), (b, 0))
    ]

    def step(h: Array, chunk: list[Array]) -> tuple[Array, Array]:
        product, states = lax.associative_scan(_compose, tuple(chunk))
        states = product * h[None] + states
        return states[-1], states

    return lax.scan(step, first, chunks)[1].reshape(-1, *first.shape)[:steps]


def _compose(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    return first[0] * second[0], second[0] * first[1] + second[1]


def _recur_forward(a: Array, b: Array, first: Array, implementation: str) -> tuple[Array, tuple]:
    states = recur(a, b, first, implementation)
    return states, (a, first, states)


def _recur_backward(implementation: str, residual: tuple, dstates: Array) -> tuple:
    # g_t = dh_t + a_{t+1} · g_{t+1} is a recurrence backwards in time: it keeps the states and no
    # tree of products.
    a, first, states = residual
    after = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])
    g = recur(after[::-1], dstates[::-1], jnp.zeros_like(first), implementation)[::-1]
    before = jnp.concatenate([first[None], states[:-1]])
    return g * before, g, a[0] * g[0]


recur.defvjp(_recur_forward, _recur_backward)
