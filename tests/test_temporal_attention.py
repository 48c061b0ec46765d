"""Attention over frames: an identity at first, apart for each place, with or without an order."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.layers.temporal_attention import TemporalAttention

SHAPE = (2, 5, 3, 2, 8)  # (B, T, Y, X, C)
ORDER = np.array([3, 0, 4, 2, 1])


@pytest.fixture
def clips(key) -> jax.Array:
    """Two clips of five frames."""
    return jax.random.normal(key, SHAPE)


def trained(layer: TemporalAttention, clips: jax.Array, key: jax.Array):
    """Variables as after training: none of them at its initial value."""
    variables = jax.jit(layer.init)(key, clips)
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        tree, [x + jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def test_an_untrained_layer_is_the_identity(clips, key):
    layer = TemporalAttention(2)
    variables = jax.jit(layer.init)(key, clips)
    np.testing.assert_array_equal(layer.apply(variables, clips), clips)
    assert (layer.apply(trained(layer, clips, key), clips) != clips).all()


def test_places_and_clips_do_not_see_each_other_and_frames_all_do(clips, key):
    """The gradient of one output by all inputs."""
    layer = TemporalAttention(2)
    variables = trained(layer, clips, key)
    gradient = jax.jit(jax.grad(lambda x: layer.apply(variables, x)[0, 1, 2, 0, 3]))(clips)
    reached = np.asarray(gradient != 0).all(-1)
    expected = np.zeros(SHAPE[:-1], bool)
    expected[0, :, 2, 0] = True
    np.testing.assert_array_equal(reached, expected)
    np.testing.assert_array_equal(np.asarray(gradient != 0).any(-1), expected)


@pytest.mark.parametrize("rotary", [None, 10_000.0])
def test_frames_have_an_order_where_positions_tell_it(clips, key, rotary):
    """Without positions the outputs of permuted frames are the permuted outputs."""
    layer = TemporalAttention(2, rotary=rotary)
    variables = trained(layer, clips, key)
    permuted = layer.apply(variables, clips[:, ORDER])
    same = np.allclose(permuted, layer.apply(variables, clips)[:, ORDER], atol=1e-5)
    assert same == (rotary is None)


def test_the_input_is_normalized_at_each_place(clips, key):
    """What attention adds does not depend on the scale of the input."""
    layer = TemporalAttention(2)
    variables = trained(layer, clips, key)
    small, large = (layer.apply(variables, s * clips) - s * clips for s in (1.0, 100.0))
    np.testing.assert_allclose(small, large, rtol=1e-2, atol=1e-2)


def test_bf16_stays_bf16(clips, key):
    layer = TemporalAttention(2, dtype="bfloat16")
    clips = clips.astype(jnp.bfloat16)
    variables = jax.jit(layer.init)(key, clips)
    y = layer.apply(variables, clips)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("heads", "shape", "message"),
    [
        (2, (2, 3, 2, 8), r"needs clips \(B, T, Y, X, C\), got x \(2, 3, 2, 8\)"),
        (3, SHAPE, "heads=3 do not divide 8 channels"),
        (0, SHAPE, "heads=0 do not"),
    ],
)
def test_what_cannot_be_attended_to_is_refused(key, heads, shape, message):
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(TemporalAttention(heads).init, key, jnp.zeros(shape))
