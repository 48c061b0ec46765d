"""The U-Net: its size, what it reads, and what it refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.models.unet import UNet

SMALL = UNet(channels=12, multipliers=(1, 1), attention=(1,), heads=2, classes=3, dropout=0.5)
X = jnp.linspace(-1, 1, 4 * 6 * 2 * 2).reshape(4, 6, 2, 2)
LEVEL, LABEL = jnp.linspace(0.1, 0.9, 4), jnp.asarray([0, 1, 2, -1])


@pytest.fixture(scope="module")
def variables():
    """Variables of the small model, in which nothing is 0; initializing would compile for long."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype("float32"),
        jax.eval_shape(SMALL.init, jax.random.key(0), X, LEVEL, LABEL),
    )


@pytest.fixture(scope="module")
def apply(variables):
    """The small model as a function of its inputs, in evaluation."""
    compiled = jax.jit(SMALL.apply)
    return lambda *inputs: compiled(variables, *inputs)


def shapes(model, size, channels):
    """The shapes of the variables and of the prediction for images of `size` and `channels`."""
    x = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    level, label = jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    labels = (label,) if model.classes else ()
    init = lambda *inputs: model.init_with_output(jax.random.key(0), *inputs)  # noqa: E731
    y, variables = jax.eval_shape(init, x, level, *labels)
    return variables["params"], y


def test_its_size_is_that_of_ddpm_but_for_the_scale():
    """35,746,307 parameters for CIFAR-10 (Ho et al. 2020, appendix B: 35.7 million)."""
    params, y = shapes(UNet(128, (1, 2, 2, 2), 2, (1,), 1, dropout=0.1), 32, 3)
    modulations = [block["modulation"] for block in params.values() if "modulation" in block]
    assert len(modulations) == 4 * (2 + 3) + 2
    halves = sum(leaf.size for leaf in jax.tree.leaves(modulations)) // 2
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) - halves == 35_746_307
    assert y.shape == (2, 32, 32, 3)


def test_odd_sizes_are_halved_as_far_as_they_are_even():
    params, y = shapes(UNet(classes=10, dtype="bfloat16"), 28, 1)
    assert y.shape == (2, 28, 28, 1) and y.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    # Attention at 7×7, below and above, and in the middle.
    attending = {name for name in params if name.endswith("attention")}
    levels = ("down_2_0", "middle", "up_2_0", "up_2_1")
    assert attending == {f"{name}_attention" for name in levels}


def test_an_untrained_model_predicts_zero(key):
    model = UNet(channels=12, multipliers=(1,), attention=(), heads=1)
    y, variables = jax.jit(model.init_with_output)(key, X, LEVEL)
    assert y.shape == X.shape and (y == 0).all()
    assert (variables["params"]["middle_attention"]["attention"]["output"]["kernel"] == 0).all()


def test_every_input_matters_and_no_row_another(apply):
    y = apply(X, LEVEL, LABEL)
    for inputs in (
        (X.at[0, 0, 0].add(1.0), LEVEL, LABEL),
        (X, LEVEL.at[0].add(0.1), LABEL),
        (X, LEVEL, LABEL.at[0].set(2)),
    ):
        change = np.abs(np.asarray(apply(*inputs) - y)).reshape(4, -1)
        np.testing.assert_array_equal(change.max(1) > 1e-4, [True, False, False, False])
        assert change[0].min() > 0  # at every pixel


def test_label_minus_one_is_no_label(apply):
    np.testing.assert_array_equal(apply(X, LEVEL, jnp.full(4, -1)), apply(X, LEVEL))


def test_every_parameter_is_trained_and_dropout_is_for_training(variables, apply):
    def loss(params, rng):
        y = SMALL.apply({"params": params}, X, LEVEL, LABEL, train=True, rngs={"dropout": rng})
        return (y**2).sum(), y

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    (grads, one), (_, other) = (gradient(variables["params"], jax.random.key(i)) for i in (0, 1))
    still = [jax.tree_util.keystr(path) for path, leaf in paths(grads) if not jnp.any(leaf != 0)]
    assert still == []
    assert not np.allclose(one, other) and not np.allclose(one, apply(X, LEVEL, LABEL))


def paths(tree):
    return jax.tree_util.tree_flatten_with_path(tree)[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": 7}, "channels=7 of UNet must be an even number"),
        ({"multipliers": ()}, r"multipliers=\(\) and blocks=1 .* must be 1 or more"),
        ({"blocks": 0}, "blocks=0 of UNet must be 1 or more"),
        ({"attention": (2,)}, r"attention=\(2,\) .* multipliers=\(1, 1\) has 0 to 1"),
        ({"heads": 5}, "heads=5 .* the 12 channels of level 1"),
        ({"classes": 0}, "was given labels, but has classes=0"),
        ({"multipliers": (1, 2, 2)}, r"\(4, 6, 2, 2\) cannot be halved 2 times .* multiples of 4"),
    ],
)
def test_what_cannot_work_is_refused(key, fields, message):
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(SMALL.clone(**fields).init, key, X, LEVEL, LABEL)
