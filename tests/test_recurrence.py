"""Every implementation of a recurrence against a loop in NumPy, and against each other."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from deeplearn.errors import UsageError
from deeplearn.layers.recurrence import linear_recurrence, selective_scan
from deeplearn.types import Array

NAMES = ("x", "delta", "A", "B", "C", "D", "state")
CHANNELS = ("reference", "chunked", "associative")
HEADS = (*CHANNELS, "ssd")
FORMS = [("channels", name) for name in CHANNELS] + [("heads", name) for name in HEADS]
# Other scans by head are those by channel.
each = pytest.mark.parametrize(("form", "implementation"), [*FORMS[:3], ("heads", "ssd")])


def arguments(form: str, steps: int, dtype: type = np.float64, batch: int = 2) -> dict:
    """Arguments of a scan; two groups of two heads of width 3, or 6 channels."""
    generator = np.random.default_rng(0)
    normal = generator.normal
    heads, channels, size = 4, 6, 5
    if form == "heads":
        inner, decays, groups, rates = (heads, 3), (heads,), (2,), (heads,)
    else:
        inner, decays, groups, rates = (channels,), (channels,), (), (channels, size)
    found = {
        "x": normal(size=(batch, steps, *inner)),
        "delta": np.log1p(np.exp(normal(size=(batch, steps, *decays)))),
        "A": -np.exp(normal(size=rates)),
        "B": normal(size=(batch, steps, *groups, size)),
        "C": normal(size=(batch, steps, *groups, size)),
        "D": normal(size=decays),
        "state": normal(size=(batch, *inner, size)),
    }
    return {name: leaf.astype(dtype) for name, leaf in found.items()}


def loop(x, delta, A, B, C, D, state, resets=None, holds=None):
    """The equation of the scan, token by token, in the precision of the arguments."""
    h, outputs = state.copy(), []
    if A.ndim == 1:
        repeats = x.shape[2] // B.shape[2]
        B, C = (np.repeat(leaf, repeats, axis=2) for leaf in (B, C))
        delta, A, D = delta[..., None], A[:, None, None], D[:, None]
    else:
        B, C = B[:, :, None], C[:, :, None]
    for t in range(x.shape[1]):
        for row in range(len(x)):
            if holds is None or not holds[row, t]:
                if resets is not None and resets[row, t]:
                    h[row] = 0
                step = delta[row, t][..., None]
                b = B[row, t] if A.ndim == 2 else B[row, t][:, None]
                h[row] = np.exp(step * A) * h[row] + step * x[row, t][..., None] * b
        c = C[:, t] if A.ndim == 2 else C[:, t][:, :, None]
        outputs.append((h * c).sum(-1) + D * x[:, t])
    return np.stack(outputs, axis=1), h


@functools.partial(jax.jit, static_argnames="implementation")
def scan(arguments, resets=None, holds=None, implementation=None):
    return selective_scan(**arguments, resets=resets, holds=holds, implementation=implementation)


def marks(steps: int) -> dict:
    """Resets and holds, some at the same token, some at the ends."""
    generator = np.random.default_rng(1)
    holds, resets = generator.random((2, 2, steps)) < 0.2
    resets[0, 0] = resets[1, -1] = holds[0, -1] = holds[1, 0] = True
    return {"resets": resets, "holds": holds}


@pytest.mark.parametrize(("form", "implementation"), FORMS)
@pytest.mark.parametrize(("steps", "marked"), [(1, False), (70, False), (70, True)])
def test_scan_equals_a_loop_in_numpy(form, implementation, steps, marked):
    given = arguments(form, steps)
    extra = marks(steps) if marked else {}
    expected = loop(**given, **extra)
    with jax.enable_x64(True):
        found = scan(given, **extra, implementation=implementation)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 0, 1e-10), found, expected)
    narrow = {name: leaf.astype(np.float32) for name, leaf in given.items()}
    found = scan(narrow, **extra, implementation=implementation)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), found, expected)


@pytest.mark.parametrize("form", ["channels", "heads"])
def test_gradients_of_the_reference_equal_finite_differences(form):
    given, extra = arguments(form, 5), marks(5)
    with jax.enable_x64(True):
        function = lambda *leaves: scan(  # noqa: E731
            dict(zip(NAMES, leaves, strict=True)), **extra, implementation="reference"
        )
        check_grads(function, [given[name] for name in NAMES], 1, ["rev"], rtol=1e-6)


@functools.partial(jax.jit, static_argnames="implementation")
def gradient(arguments, resets=None, holds=None, implementation=None):
    def loss(arguments):
        y, state = scan(arguments, resets, holds, implementation)
        return jnp.square(y).sum() + jnp.sin(state).sum()

    return jax.grad(loss)(arguments)


@pytest.mark.parametrize(("form", "implementation"), [*FORMS[1:3], *FORMS[4:]])
def test_gradients_equal_those_of_the_reference(form, implementation):
    # Over several chunks of each, the last of them partly filled.
    given, extra = arguments(form, 70), marks(70)
    with jax.enable_x64(True):
        expected = gradient(given, **extra, implementation="reference")
        found = gradient(given, **extra, implementation=implementation)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9, 1e-12), found, expected)


@pytest.mark.parametrize("form", ["channels", "heads"])
def test_the_default_is_one_of_them(form):
    given = arguments(form, 40, np.float32)
    expected = scan(given, implementation="reference")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), scan(given), expected)


@each
def test_a_reset_forgets_everything_before_it(form, implementation):
    # Blocks of 32 and 64 end before and behind it.
    given = arguments(form, 150, np.float32)
    resets = np.zeros((2, 150), bool)
    resets[:, 100] = True

    def loss(arguments):
        y, state = scan(arguments, resets, None, implementation)
        return jnp.square(y[:, 100:]).sum() + jnp.square(state).sum()

    found = jax.jit(jax.grad(loss))(given)
    assert not found["state"].any()
    for name in ("x", "delta", "B"):
        assert not found[name][:, :100].any()
        assert found[name][:, 100:].any()
    tail = {
        name: leaf[:, 100:] if name in ("x", "delta", "B", "C") else leaf
        for name, leaf in given.items()
    }
    alone, state = scan({**tail, "state": None}, implementation=implementation)
    y, last = scan(given, resets, implementation=implementation)
    np.testing.assert_allclose(y[:, 100:], alone, 1e-5, 1e-5)
    np.testing.assert_allclose(last, state, 1e-5, 1e-5)


@each
def test_a_hold_changes_nothing(form, implementation):
    given = arguments(form, 40, np.float32)
    holds = np.zeros((2, 40), bool)
    holds[:, [0, 11, 12, 39]] = True
    y, state = scan(given, None, holds, implementation)
    real = np.flatnonzero(~holds[0])
    kept = {
        name: leaf[:, real] if name in ("x", "delta", "B", "C") else leaf
        for name, leaf in given.items()
    }
    expected, last = scan(kept, implementation=implementation)
    np.testing.assert_allclose(y[:, real], expected, 1e-5, 1e-5)
    np.testing.assert_allclose(state, last, 1e-5, 1e-5)


@each
def test_two_parts_equal_the_whole(form, implementation):
    given = arguments(form, 40, np.float32)
    whole, last = scan(given, implementation=implementation)
    outputs, state = [], given["state"]
    for part in (slice(0, 33), slice(33, 40)):
        cut = {
            name: leaf[:, part] if name in ("x", "delta", "B", "C") else leaf
            for name, leaf in given.items()
        }
        y, state = scan({**cut, "state": state}, implementation=implementation)
        outputs.append(y)
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), whole, 1e-5, 1e-5)
    np.testing.assert_allclose(state, last, 1e-5, 1e-5)


@each
def test_gradients_are_finite_in_bfloat16_over_4096_tokens(form, implementation):
    given = arguments(form, 4096, np.float32, batch=1)
    given = {name: jnp.asarray(leaf, jnp.bfloat16) for name, leaf in given.items()}
    y, state = scan(given, implementation=implementation)
    assert y.dtype == jnp.bfloat16
    assert state.dtype == jnp.float32
    for leaf in jax.tree.leaves(gradient(given, implementation=implementation)):
        assert leaf.dtype == jnp.bfloat16
        assert jnp.isfinite(leaf).all()


def test_the_memory_of_the_associative_scan_grows_by_less_than_a_state_a_token():
    """Of its gradient, from compiled programs alone; a tree over all tokens takes many states."""
    channels, size, steps = 16, 32, 512

    def tree(x: Array, delta: Array, A: Array, B: Array, C: Array, D: Array) -> tuple:
        decay = jnp.exp(delta[..., None] * A[None, None])
        inputs = (delta * x)[..., None] * B[:, :, None]
        states, last = linear_recurrence(decay, inputs, None, "associative")
        return (states * C[:, :, None]).sum(-1) + D[None, None] * x, last

    def temporaries(scan: Callable, steps: int) -> int:
        inner, states = (1, steps, channels), (1, steps, size)
        shapes = inner, inner, (channels, size), states, states, (channels,)
        given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        slope = jax.grad(lambda given: jnp.square(scan(*given)[0]).sum())
        return jax.jit(slope).lower(given).compile().memory_analysis().temp_size_in_bytes

    def growth(scan: Callable) -> float:
        return (temporaries(scan, 4 * steps) - temporaries(scan, steps)) / (3 * steps)

    flat = growth(functools.partial(selective_scan, implementation="associative"))
    state = 4 * channels * size
    assert 0 < flat < state < growth(tree) / 5


def test_a_scan_by_head_equals_one_by_channel():
    by_head = arguments("heads", 20, np.float32)
    by_head["B"], by_head["C"] = by_head["B"][:, :, :1], by_head["C"][:, :, :1]
    y, state = scan(by_head, implementation="ssd")
    by_channel = {
        "x": by_head["x"].reshape(2, 20, 12),
        "delta": np.repeat(by_head["delta"], 3, axis=2),
        "A": np.repeat(by_head["A"][:, None], 15).reshape(12, 5),
        "B": by_head["B"][:, :, 0],
        "C": by_head["C"][:, :, 0],
        "D": np.repeat(by_head["D"], 3),
        "state": by_head["state"].reshape(2, 12, 5),
    }
    expected, last = scan(by_channel, implementation="reference")
    np.testing.assert_allclose(y.reshape(2, 20, 12), expected, 1e-5, 1e-5)
    np.testing.assert_allclose(state.reshape(2, 12, 5), last, 1e-5, 1e-5)


@pytest.mark.parametrize("implementation", ["sequential", "associative"])
@pytest.mark.parametrize("steps", [1, 7, 600])
def test_linear_recurrence_equals_a_loop(implementation, steps):
    generator = np.random.default_rng(0)
    decay = generator.uniform(0, 1, (2, steps, 3))
    inputs, state = generator.normal(size=(2, steps, 3)), generator.normal(size=(2, 3))
    expected, h = [], state
    for t in range(steps):
        h = decay[:, t] * h + inputs[:, t]
        expected.append(h)
    with jax.enable_x64(True):
        function = jax.jit(lambda *leaves: linear_recurrence(*leaves, implementation))
        states, last = function(decay, inputs, state)
        np.testing.assert_allclose(states, np.stack(expected, axis=1), 0, 1e-10)
        np.testing.assert_allclose(last, h, 0, 1e-10)
        short = decay[:, :6], inputs[:, :6], state
        check_grads(function, short, 2, ["rev"], rtol=1e-6)


@pytest.mark.parametrize("implementation", ["sequential", "associative"])
def test_linear_recurrence_starts_at_zero_and_keeps_fp32(implementation):
    decay = jnp.full((1, 600, 1), 0.5, jnp.bfloat16)
    states, last = linear_recurrence(decay, jnp.ones_like(decay), implementation=implementation)
    assert states.dtype == jnp.bfloat16
    assert states[0, 0, 0] == 1
    assert last.dtype == jnp.float32
    np.testing.assert_allclose(last, 2, 1e-6)


def test_refuses_what_it_does_not_know():
    given = arguments("channels", 3, np.float32)
    with pytest.raises(UsageError, match="'chunkd' is not known; did you mean 'chunked'"):
        selective_scan(**given, implementation="chunkd")
    with pytest.raises(UsageError, match=r"needs one decay per head, A \(H,\), not .*\(6, 5\)"):
        selective_scan(**given, implementation="ssd")
    with pytest.raises(UsageError, match="'tree' is not known"):
        linear_recurrence(jnp.ones((1, 1, 1)), jnp.ones((1, 1, 1)), implementation="tree")
