"""Linear recurrences over time, and the front of the selective scan.

A linear recurrence is the core of a state space model (Gu & Dao 2023, arXiv:2312.00752) and of the
minimal gated networks (Feng et al. 2024, arXiv:2410.01201). It is associative (Blelloch 1990), so
it runs token by token or as a tree.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from deeplearn.errors import UsageError, did_you_mean
from deeplearn.layers.chunked_scan import chunked_scan
from deeplearn.layers.ssd import ssd
from deeplearn.layers.time_chunks import join_time, split_time
from deeplearn.types import Array

# A tree over all tokens keeps several copies of its inputs; over so many at a time, few.
_TREE = 256
_CHUNK = 64


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
    chunks = split_time(a, _TREE), split_time(b, _TREE)

    def step(h: Array, chunk: tuple[Array, Array]) -> tuple[Array, Array]:
        product, states = lax.associative_scan(_compose, chunk)
        states = product * h[None] + states
        return states[-1], states

    return join_time(lax.scan(step, first, chunks)[1], len(a))


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


def selective_scan(
    x: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    state: Array | None = None,
    *,
    resets: Array | None = None,
    holds: Array | None = None,
    implementation: str | None = None,
) -> tuple[Array, Array]:
    """h_t = exp(Δ_t A) h_{t−1} + Δ_t x_t B_tᵀ, y_t = h_t C_t + D x_t: y like x, the last state.

    With a decay for every channel and state (Mamba): x, delta (B, T, D), A (D, N), B, C (B, T, N),
    D (D,), state (B, D, N). With one decay per head of width P (Mamba-2): x (B, T, H, P),
    delta (B, T, H), A (H,), B, C (B, T, G, N), where each of G groups serves H/G heads, D (H,),
    state (B, H, P, N). State None is 0; it is fp32 or wider, as is all computation.

    `resets` bool (B, T) zeroes the state before the token; `holds` bool (B, T), which goes before
    it, passes the state on unchanged. `implementation` is "reference" (token by token),
    "associative" (a tree within chunks), "chunked" (token by token within chunks, which the
    gradient computes again), "ssd" (matrix products within chunks, one decay per head only), or
    None: by backend and shape. Gu & Dao 2023 (arXiv:2312.00752), Dao & Gu 2024 (arXiv:2405.21060).
    """
    by_head = A.ndim == 1
    check_implementation(implementation, ("reference", "associative", "chunked", "ssd"))
    if implementation == "ssd" and not by_head:
        raise UsageError(
            f"implementation='ssd' needs one decay per head, A (H,), not A of shape {A.shape}; use"
            " 'chunked' or 'associative'"
        )
    wide, inner = jnp.promote_types(x.dtype, jnp.float32), x.shape[2:]
    if implementation is None:
        implementation = _choose(x.shape[1], by_head)
    if state is None:
        state = jnp.zeros((x.shape[0], *inner, B.shape[-1]), wide)
    if holds is not None:
        delta = jnp.where(holds[..., None], 0, delta)
        resets = None if resets is None else resets & ~holds
    u, dtype = x.astype(wide), x.dtype
    x, delta, B, C = (jnp.moveaxis(leaf, 1, 0).astype(wide) for leaf in (x, delta, B, C))
    A, D, state = A.astype(wide), D.astype(wide), state.astype(wide)
    x = x * (delta[..., None] if by_head else delta)
    resets = None if resets is None else resets.T
    if implementation == "ssd":
        y, state = ssd(delta * A[None, None], x, B, C, resets, state)
    else:
        scan = {"reference": _reference, "associative": _associative, "chunked": chunked_scan}
        run = partial(_by_channel, scan[implementation]) if by_head else scan[implementation]
        keep = None if resets is None else 1 - resets.astype(wide)
        y, state = run(delta, x, A, B, C, keep, state)
    skip = jnp.broadcast_to(D[:, None] if by_head else D, inner)
    return (jnp.moveaxis(y, 0, 1) + skip[None, None] * u).astype(dtype), state


def _choose(steps: int, by_head: bool) -> str:
    if steps == 1:
        return "reference"
    if by_head:
        return "ssd"
    return "chunked" if jax.default_backend() == "cpu" else "associative"


def _decay(delta: Array, A: Array, keep: Array | None) -> Array:
    """keep · exp(Δ A) (…, B, D, N) of delta (…, B, D), A (D, N) and keep (…, B)."""
    decay = jnp.exp(delta[..., None] * A.reshape((1,) * (delta.ndim - 1) + A.shape))
    return decay if keep is None else decay * keep[..., None, None]


def _reference(
    delta: Array, x: Array, A: Array, B: Array, C: Array, keep: Array | None, state: Array
) -> tuple[Array, Array]:
    """The scan as its equation says; arguments as those of `chunked_scan`."""

    def token(h: Array, t: tuple) -> tuple[Array, Array]:
        delta, x, B, C, keep = t
        h = _decay(delta, A, keep) * h + x[:, :, None] * B[:, None, :]
        return h, (h * C[:, None, :]).sum(-1)

    state, y = lax.scan(token, state, (delta, x, B, C, keep))
    return y, state


def _associative(
    delta: Array, x: Array, A: Array, B: Array, C: Array, keep: Array | None, state: Array
) -> tuple[Array, Array]:
    """The scan as a tree within chunks; arguments as those of `chunked_scan`."""

    # The backward pass computes a chunk again: memory does not grow with T · N.
    @jax.checkpoint
    def chunk(h: Array, tokens: tuple) -> tuple[Array, Array]:
        delta, x, B, C, keep = tokens
        inputs = x[..., None] * B[:, :, None, :]
        states = recur(_decay(delta, A, keep), inputs, h, "associative")
        return states[-1], jnp.einsum("tbdn,tbn->tbd", states, C)

    kept = None if keep is None else split_time(keep, _CHUNK, 1.0)
    tokens = (*(split_time(leaf, _CHUNK) for leaf in (delta, x, B, C)), kept)
    state, y = lax.scan(chunk, state, tokens)
    return join_time(y, len(x)), state


def _by_channel(
    scan: Callable,
    delta: Array,
    x: Array,
    A: Array,
    B: Array,
    C: Array,
    keep: Array | None,
    state: Array,
) -> tuple[Array, Array]:
    """A scan with one decay per head by a `scan` with one for every channel and state."""
    steps, batch, heads, width = x.shape
    groups, size = B.shape[2:]
    channels = groups, heads // groups * width
    y, last = jax.vmap(scan, in_axes=(2, 2, 0, 2, 2, None, 1), out_axes=(2, 1))(
        jnp.repeat(delta, width, axis=2).reshape(steps, batch, *channels),
        x.reshape(steps, batch, *channels),
        jnp.broadcast_to(A[:, None, None], (heads, width, size)).reshape(*channels, size),
        B,
        C,
        keep,
        state.reshape(batch, *channels, size),
    )
    return y.reshape(x.shape), last.reshape(state.shape)
