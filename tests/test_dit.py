"""DiT: its published sizes, what it reads, and what it refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.models.dit import DiT, positions, preset, to_images, to_patches

SMALL = DiT(patch=2, width=8, depth=2, heads=2, classes=3)
X = jnp.linspace(-1, 1, 4 * 4 * 6 * 2).reshape(4, 4, 6, 2)
LEVEL, LABEL = jnp.linspace(0.1, 0.9, 4), jnp.asarray([0, 1, 2, -1])


@pytest.fixture(scope="module")
def variables():
    """Variables of the small model, in which nothing is 0."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: 0.5 * rng.normal(size=leaf.shape).astype("float32"),
        jax.eval_shape(SMALL.init, jax.random.key(0), X, LEVEL, LABEL),
    )


@pytest.fixture(scope="module")
def apply():
    """The small model, in evaluation: variables and inputs → prediction."""
    return jax.jit(SMALL.apply)


def parameters(model):
    """The number of parameters for latents of 32×32×4, as in the paper."""
    x = jax.ShapeDtypeStruct((2, 32, 32, 4), jnp.float32)
    level = jax.ShapeDtypeStruct((2,), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x, level)
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(
    ("name", "millions"), [("S/2", 33), ("B/4", 130), ("L/4", 458), ("XL/2", 675)]
)
def test_sizes_are_the_published_ones(name, millions):
    """Table 4 of the paper."""
    assert round(parameters(preset(name, classes=1000)) / 1e6) == millions


def test_xl_2_is_the_published_one_but_for_what_the_head_of_the_file_says():
    """675,129,632 numbers in the published DiT-XL/2 for 256×256 pixels."""
    model = preset("XL/2", classes=1000)
    fixed_positions, no_class = (32 // 2) ** 2 * model.width, model.width
    variance = (model.width + 1) * 2 * 2 * 4
    assert parameters(model) + fixed_positions + no_class + variance == 675_129_632


def test_an_untrained_model_predicts_zero_and_its_blocks_are_the_identity(key, apply):
    variables = jax.jit(SMALL.init)(key, X, LEVEL, LABEL)
    assert (apply(variables, X, LEVEL, LABEL) == 0).all()
    params = variables["params"]
    params["output"]["kernel"] += 1.0
    y = apply(variables, X, LEVEL, LABEL)
    assert y.shape == X.shape and y.dtype == jnp.float32 and (y != 0).any()
    params["layers"]["attention"]["output"]["kernel"] += 1.0
    params["layers"]["feed_forward"]["output"]["bias"] += 1.0
    np.testing.assert_array_equal(apply(variables, X, LEVEL, LABEL), y)


def test_every_input_matters_and_no_row_another(variables, apply):
    y = apply(variables, X, LEVEL, LABEL)
    for inputs in (
        (X.at[0, 0, 0].add(1.0), LEVEL, LABEL),
        (X, LEVEL.at[0].add(0.1), LABEL),
        (X, LEVEL, LABEL.at[0].set(2)),
    ):
        change = np.abs(np.asarray(apply(variables, *inputs) - y)).reshape(4, -1)
        np.testing.assert_array_equal(change.max(1) > 1e-4, [True, False, False, False])
        assert change[0].min() > 0  # at every pixel


def test_label_minus_one_is_no_label(variables, apply):
    without = apply(variables, X, LEVEL)
    np.testing.assert_array_equal(apply(variables, X, LEVEL, jnp.full(4, -1)), without)


def test_every_parameter_is_trained_and_remat_changes_nothing(variables):
    def gradient(model):
        loss = lambda variables: (model.apply(variables, X, LEVEL, LABEL, train=True) ** 2).sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(variables)

    plain = gradient(SMALL)
    still = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_flatten_with_path(plain)[0]
        if not jnp.any(leaf != 0)
    ]
    assert still == []
    again = gradient(SMALL.clone(remat="full"))
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), again, plain)


def test_patches_are_squares_of_the_image_and_go_back():
    patches = to_patches(X, 2)
    assert patches.shape == (4, 6, 8)
    # The second row of patches begins at the fourth of 2 · 3.
    np.testing.assert_array_equal(patches[:, 3], X[:, 2:4, 0:2].reshape(4, -1))
    np.testing.assert_array_equal(to_images(patches, 2, 3, 2), X)


def test_positions_tell_rows_and_columns():
    """Equal rows agree in one half, equal columns in the other, and no two places in both."""
    table = positions(3, 4, 16).reshape(3, 4, 2, 8)
    np.testing.assert_array_equal(table[:, :, 0], np.broadcast_to(table[:, :1, 0], (3, 4, 8)))
    np.testing.assert_array_equal(table[:, :, 1], np.broadcast_to(table[:1, :, 1], (3, 4, 8)))
    assert len(np.unique(table.reshape(12, 16), axis=0)) == 12
    # Vaswani et al., section 3.5, at place 2: frequencies 1, 1/10, 1/100, 1/1000.
    angles = 2 / 10.0 ** np.arange(4)
    expected = np.concatenate([np.sin(angles), np.cos(angles)])
    np.testing.assert_allclose(table[2, 0, 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 0}, "depth=0 of DiT must be 1 or more"),
        ({"width": 6}, "width=6 of DiT must be a multiple of 4"),
        ({"heads": 3}, "width=8 of DiT .* of heads=3"),
        ({"classes": 0}, "was given labels, but has classes=0"),
        ({"patch": 4}, r"\(4, 4, 6, 2\) cannot be cut .* multiples of patch=4"),
        ({"remat": "ful"}, "remat='ful' is not known; did you mean 'full'"),
    ],
)
def test_what_cannot_work_is_refused(key, fields, message):
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(SMALL.clone(**fields).init, key, X, LEVEL, LABEL)


def test_an_unknown_name_is_refused():
    with pytest.raises(UsageError, match="no DiT is called 'XXL/2'; did you mean 'XL/2'"):
        preset("XXL/2")
