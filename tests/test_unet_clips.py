"""The U-Net of clips: images apart while attention over frames is 0, one film once it is not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.models.unet import UNet
from deeplearn.tree_paths import map_arrays

MODEL = UNet(4, (1,), attention=(0,), heads=2, temporal_heads=2, classes=3)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(2, 3, 4, 8, 1)), jnp.float32)  # (B, T, Y, X, C)
LEVEL, LABEL = jnp.asarray([0.1, 0.9]), jnp.asarray([0, 2])


def randomized(model, x):
    """Variables none of which is 0, as the last of each block are at first."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, LEVEL, LABEL)
    return jax.tree.map(lambda s: jnp.asarray(RNG.normal(size=s.shape, scale=0.4), s.dtype), shapes)


@pytest.fixture(scope="module")
def variables():
    """Of a model that has been trained."""
    return randomized(MODEL, X)


@pytest.fixture(scope="module")
def apply():
    """The model, compiled once."""
    compiled = jax.jit(MODEL.apply)
    return lambda variables, x: np.asarray(compiled(variables, x, LEVEL, LABEL))


def reached(variables, apply, frame):
    """Which frames (B, T) of the output change with one frame of the first clip."""
    change = apply(variables, X) - apply(variables, X.at[0, frame].add(1.0))
    return np.abs(change).max((2, 3, 4)) > 1e-4


def without_frames(variables):
    """The same with attention over frames as it is at first: its output is 0."""

    def at_first(path, leaf):
        return 0 * leaf if "_frames/attention/output" in path else leaf

    return map_arrays(at_first, variables)


def test_without_attention_over_frames_each_frame_is_an_image(variables, apply):
    """The model of images gives the same by the same weights; each clip has a level and a label."""
    at_first = without_frames(variables)
    kept = {name: leaf for name, leaf in at_first["params"].items() if "_frames" not in name}
    image_model = MODEL.clone(temporal_heads=0)
    images, levels, labels = X.reshape(6, 4, 8, 1), jnp.repeat(LEVEL, 3), jnp.repeat(LABEL, 3)
    each = jax.jit(image_model.apply)({"params": kept}, images, levels, labels)
    y = apply(at_first, X)
    assert y.shape == X.shape and y.dtype == np.float32
    np.testing.assert_allclose(y, each.reshape(X.shape), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frame", range(3))
def test_a_frame_reaches_its_whole_clip_by_attention_over_frames_alone(variables, apply, frame):
    own = np.arange(3) == frame
    np.testing.assert_array_equal(
        reached(without_frames(variables), apply, frame), [own, [False] * 3]
    )
    np.testing.assert_array_equal(reached(variables, apply, frame), [[True] * 3, [False] * 3])


def test_frames_have_an_order(variables, apply):
    """Permuting them permutes the output where attention over frames is 0, and only there."""
    order = np.array([2, 0, 1])
    for weights, permutes in ((without_frames(variables), True), (variables, False)):
        y, permuted = (apply(weights, x) for x in (X, X[:, order]))
        assert np.allclose(permuted, y[:, order], rtol=1e-3, atol=1e-3) == permutes


def test_attention_over_frames_stands_behind_every_block(variables):
    names = sorted(name.rpartition("_") for name in variables["params"])
    blocks, frames = ([name for name, _, end in names if end == e] for e in ("block", "frames"))
    assert blocks == frames and len(blocks) == 5


@pytest.mark.parametrize(
    ("heads", "shape", "message"),
    [
        (2, (2, 4, 8, 1), r"temporal_heads=2 reads clips .* got x of shape \(2, 4, 8, 1\)"),
        (0, X.shape, r"temporal_heads=0 reads images .* got x of shape \(2, 3, 4, 8, 1\)"),
        (3, X.shape, "heads=3 do not divide 4 channels"),
        (-1, X.shape, "heads=-1 do not divide"),
    ],
)
def test_what_is_no_clip_is_refused(key, heads, shape, message):
    model = MODEL.clone(temporal_heads=heads)
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(model.init, key, jnp.zeros(shape), LEVEL, LABEL)


def test_only_the_sizes_of_frames_are_halved(key):
    model, x = MODEL.clone(multipliers=(1, 2)), jnp.zeros((2, 3, 4, 7, 1))
    with pytest.raises(UsageError, match="cannot be halved 1 times by UNet; give clips"):
        jax.eval_shape(model.init, key, x, LEVEL, LABEL)
    y = jax.eval_shape(lambda x: model.init_with_output(key, x, LEVEL, LABEL)[0], x[:, :, :, :6])
    assert y.shape == (2, 3, 4, 6, 1)
