"""Mamba and Mamba-2: published sizes, and what their carry knows of documents and padding."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.layers.causal_convolution import causal_convolution
from deeplearn.layers.mamba import Mamba, Mamba2
from deeplearn.models.mamba import PRESETS, HybridSizes, Mamba2Sizes, MambaSizes, mamba, preset
from deeplearn.types import Context

T = 20
MIXERS = {
    "mamba": Mamba(8, state_size=4),
    "mamba2": Mamba2(8, state_size=4, head_width=4, groups=2),
}
every_mixer = pytest.mark.parametrize("name", MIXERS)


@functools.cache
def variables(name):
    x = jnp.zeros((1, T, 8))
    found = jax.jit(MIXERS[name].init)(jax.random.key(0), x, None, context())
    # Large steps, so that a state that leaks is seen.
    found["params"]["dt_bias"] = jnp.full_like(found["params"]["dt_bias"], -0.5)
    return found


@functools.partial(jax.jit, static_argnums=0)
def call(mixer, variables, x, carry, context):
    return mixer.apply(variables, x, carry, context)


def apply(name, x, carry, context):
    return call(MIXERS[name], variables(name), x, carry, context)


def context(segments=None, positions=None) -> Context:
    if positions is None:
        positions = np.arange(T)[None] if segments is None else np.full(np.shape(segments), 9)
    return Context(None if segments is None else jnp.asarray(segments), jnp.asarray(positions))


def inputs(rows: int = 2, steps: int = T) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, steps, 8)).astype(np.float32)


def close(a, b) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), a, b)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mamba_130m", 129_135_360),
        ("mamba_370m", 371_516_416),
        ("mamba_790m", 793_204_224),
        ("mamba_1.4b", 1_372_178_432),
        ("mamba_2.8b", 2_768_345_600),
        ("mamba2_130m", 128_989_632),
        ("mamba2_370m", 368_346_624),
        ("mamba2_780m", 780_161_280),
        ("mamba2_1.3b", 1_343_757_312),
        ("mamba2_2.7b", 2_702_599_680),
    ],
)
def test_parameter_counts_are_the_published_ones(name, count):
    shapes = jax.eval_shape(preset(name).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_every_preset_is_known_by_name():
    for name in PRESETS:
        preset(name)
    with pytest.raises(UsageError, match="no mamba is called 'mamba_13m'; did you mean"):
        preset("mamba_13m")


def test_a_hybrid_has_attention_last_in_every_period():
    model = mamba(HybridSizes(32, 16, 8, heads=2, kv_heads=1, features=32, period=4))
    assert model.repeats == 2
    kinds = [type(block.mixer).__name__ for block in model.pattern]
    assert kinds == ["Mamba", "Mamba", "Mamba", "Attention"]


@every_mixer
@pytest.mark.parametrize("splits", [[11], [1, 3, 4], range(1, T)])
def test_parts_of_any_length_equal_the_whole(name, splits):
    x = inputs()
    whole, none = apply(name, x, None, context())
    assert none is None
    empty = MIXERS[name].init_carry(2, 0)
    _, last = apply(name, x, empty, context())
    carry, outputs = empty, []
    for part in np.split(x, list(splits), axis=1):
        y, carry = apply(name, part, carry, context())
        outputs.append(y)
    close(np.concatenate(outputs, axis=1), whole)
    close(carry, last)


@every_mixer
def test_padding_anywhere_is_passed_over(name):
    x = inputs()
    segments = np.ones((2, T), np.int32)
    segments[0, [0, 1, 5, 9, 18, 19]] = segments[1, 3:9] = 0
    empty = MIXERS[name].init_carry(2, 0)
    y, carry = apply(name, x, empty, context(segments))
    assert jnp.isfinite(y).all()
    for row in range(2):
        real = segments[row] > 0
        alone = MIXERS[name].init_carry(1, 0)
        expected, last = apply(name, x[row : row + 1, real], alone, context())
        close(y[row, real], expected[0])
        close(
            jax.tree.map(lambda leaf, row=row: leaf[row], carry),
            jax.tree.map(lambda leaf: leaf[0], last),
        )


@every_mixer
def test_a_document_begins_anew(name):
    x = inputs()
    positions = np.concatenate([np.arange(3, 10), np.arange(11), np.arange(2)])
    positions = np.broadcast_to(positions, (2, T))
    segments = np.broadcast_to(np.repeat([1, 2, 3], [7, 11, 2]), (2, T))
    _, old = apply(name, x[::-1], MIXERS[name].init_carry(2, 0), context())
    y, carry = apply(name, x, old, context(segments, positions))
    first, _ = apply(name, x[:, :7], old, context())
    second, _ = apply(name, x[:, 7:18], None, context())
    third, last = apply(name, x[:, 18:], MIXERS[name].init_carry(2, 0), context())
    close(y, np.concatenate([first, second, third], axis=1))
    close(carry, last)

    def later(x, old):
        y, carry = apply(name, x, old, context(segments, positions))
        return jnp.square(y[:, 7:18]).sum() + sum(map(jnp.sum, jax.tree.leaves(carry)))

    found = jax.jit(jax.grad(later, argnums=(0, 1)))(x, old)
    assert not any(leaf.any() for leaf in jax.tree.leaves((found[0][:, :7], found[1])))
    assert found[0][:, 7:].any(axis=(0, 2)).all()


@every_mixer
def test_no_output_depends_on_a_later_token(name):
    gradient = jax.jit(
        jax.grad(lambda x: jnp.square(apply(name, x, None, context())[0][:, 9]).sum())
    )
    found = gradient(inputs())
    assert not found[:, 10:].any()
    assert found[:, :10].any(axis=(0, 2)).all()


@every_mixer
def test_steps_begin_between_a_thousandth_and_a_tenth(name):
    mixer = MIXERS[name].clone(width=64)
    x = jnp.zeros((1, 2, 64))
    params = jax.jit(mixer.init)(jax.random.key(1), x, None, context())["params"]
    steps = jax.nn.softplus(params["dt_bias"])
    assert (steps > 0.00099).all() and (steps < 0.1001).all()
    assert steps.max() > 10 * steps.min()
    A = jnp.exp(params["A_log"])
    assert (A > 0.999).all() and (A < 16.001).all()


def test_state_stays_wide_under_bfloat16():
    carry = Mamba(8, dtype="bfloat16").init_carry(2, 0, "bfloat16")
    assert carry.window.dtype == jnp.bfloat16
    assert carry.state.dtype == jnp.float32
    mixer = MIXERS["mamba"].clone(dtype="bfloat16")
    carry = mixer.init_carry(2, 0, "bfloat16")
    x = jnp.asarray(inputs(), jnp.bfloat16)
    y, after = jax.jit(mixer.apply)(variables("mamba"), x, carry, context())
    assert y.dtype == jnp.bfloat16
    assert [leaf.dtype for leaf in jax.tree.leaves(after)] == [jnp.bfloat16, jnp.float32]


def test_convolution_equals_a_loop_in_numpy():
    generator = np.random.default_rng(0)
    x, window = generator.normal(size=(2, T, 3)), generator.normal(size=(2, 3, 3))
    kernel = generator.normal(size=(4, 3))
    resets, holds = generator.random((2, 2, T)) < 0.25
    holds[0, 0] = resets[0, 1] = resets[0, 0] = True
    expected, last = np.zeros_like(x), []
    for row in range(2):
        past = list(window[row])
        for t in range(T):
            if not holds[row, t]:
                past = ([np.zeros(3)] * 3 if resets[row, t] else past[-3:]) + [x[row, t]]
                expected[row, t] = (kernel * np.stack(past)).sum(0)
        last.append(np.stack(past[-3:]))
    y, after = causal_convolution(*map(jnp.asarray, (x, kernel, window, resets, holds)))
    close(np.asarray(y)[~holds], expected[~holds])
    close(after, np.stack(last))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Mamba(7), "Mamba: width=7 but the input has 8; give the mixer the width"),
        (lambda: Mamba2(8, head_width=5), "the inner width 16 does not divide into heads"),
        (lambda: Mamba2(8, head_width=4, groups=3), "4 heads do not divide into groups=3"),
        (lambda: Mamba(8, convolution=0), "convolution=0 of Mamba must be 1 or more"),
        (lambda: Mamba(8, rank=0), "rank=0 of Mamba must be 1 or more"),
        (lambda: Mamba(8, expansion=0), "expansion=0 of Mamba must be 1 or more"),
        (lambda: Mamba(8, state_size=0), "state_size=0 of Mamba must be 1 or more"),
        (lambda: Mamba2(8, head_width=0), "head_width=0 of Mamba2 must be 1 or more"),
        (lambda: Mamba2(8, groups=0), "groups=0 of Mamba2 must be 1 or more"),
        (lambda: Mamba(8, implementation="ssd"), "implementation='ssd' needs one decay per head"),
    ],
)
def test_refuses_sizes_that_do_not_fit(build, message):
    with pytest.raises(UsageError, match=message):
        build().init(jax.random.key(0), jnp.zeros((1, 2, 8)), None, context())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (MambaSizes(256, 0, 4), "width=0 of mamba must be 1 or more"),
        (Mamba2Sizes(256, 16, 4, head_width=0), "head_width=0 of mamba"),
        (Mamba2Sizes(256, 16, 4, groups=0), "groups=0 of mamba"),
        (HybridSizes(256, 16, 4, 0, 2, 32, period=4), "heads=0 of mamba"),
        (HybridSizes(256, 16, 4, 2, 2, 32, period=0), "period=0 of mamba"),
        (HybridSizes(256, 16, 6, 2, 2, 32, period=4), "depth=6 must divide by period=4"),
    ],
)
def test_refuses_impossible_models(sizes, message):
    with pytest.raises(UsageError, match=message):
        mamba(sizes)
