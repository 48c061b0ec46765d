"""The multilayer perceptron: counts, depth, modes and bad fields."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.models.mlp import MLP

X = np.random.default_rng(0).standard_normal((16, 12), np.float32)


def initialized(model, x=X):
    """(apply, variables), both compiled once."""
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), x)
    return jax.jit(model.apply, static_argnames=("train", "mutable")), variables


def count(model, shape=(2, 12)):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def widths(*numbers):
    """Parameters of dense layers of these widths, the first that of the input."""
    return sum((a + 1) * b for a, b in zip(numbers, numbers[1:], strict=False))


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [
        ((), widths(12, 3)),
        ((8,), widths(12, 8, 3)),
        ((8, 8, 8), widths(12, 8, 8, 8, 3)),
        ((8, 5, 5, 7), widths(12, 8, 5, 5, 7, 3)),
        ((8,) * 30, widths(12, *(8,) * 30, 3)),
    ],
)
@pytest.mark.parametrize("residual", [False, True])
def test_has_the_parameters_of_its_dense_layers(hidden, expected, residual):
    assert count(MLP(hidden, 3, residual=residual)) == expected
    # One scale and bias to every hidden unit.
    normalized = MLP(hidden, 3, residual=residual, normalization="layer")
    assert count(normalized) == expected + 2 * sum(hidden)


def test_flattens_its_input():
    assert count(MLP((8,), 3), (2, 4, 5, 1)) == widths(20, 8, 3)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("layers", [3, 12])
def test_equals_its_layers_one_after_another(layers, residual):
    """The layers scanned (12) and unrolled (3) are the formula at the head of the file."""
    apply, variables = initialized(MLP((8,) * layers, 3, "tanh", residual=residual))
    params = jax.tree.map(np.asarray, variables["params"])
    h = X @ params["input"]["kernel"] + params["input"]["bias"]
    stack = params["stack_0"]["dense"]
    for kernel, bias in zip(stack["kernel"], stack["bias"], strict=True):
        h = residual * h + np.tanh(h) @ kernel + bias
    y = np.tanh(h) @ params["output"]["kernel"] + params["output"]["bias"]
    np.testing.assert_allclose(apply(variables, X), y, rtol=1e-4, atol=1e-5)


def test_traces_to_the_same_size_whatever_the_depth():
    def equations(layers):
        model = MLP((8,) * layers, 3, residual=True, normalization="batch")
        return str(jax.make_jaxpr(lambda: model.init(jax.random.key(0), X))()).count("\n")

    assert equations(20) == equations(200)


def gradient_scale(model):
    """The mean size of the gradient of the first kernel, over that of the last."""
    _, variables = initialized(model)

    @jax.jit
    def gradient(params):
        return jax.grad(lambda params: jnp.square(model.apply({"params": params}, X)).sum())(params)

    scale = jax.tree.map(lambda leaf: jnp.abs(leaf).mean(), gradient(variables["params"]))
    return scale["input"]["kernel"] / scale["output"]["kernel"]


def test_a_deep_network_passes_gradients_only_when_residual():
    deep = partial(MLP, (32,) * 128, 3, "sigmoid")
    assert gradient_scale(deep(residual=True)) > 1e-2
    assert gradient_scale(deep(residual=False)) < 1e-6


@pytest.mark.parametrize(
    ("activation", "normalization"), [("relu", None), ("tanh", None), ("gelu", "layer")]
)
def test_a_deep_residual_network_keeps_its_scale(activation, normalization):
    def spread(layers):
        model = MLP((64,) * layers, 32, activation, normalization=normalization, residual=True)
        apply, variables = initialized(model)
        return apply(variables, X).std()

    assert 0.5 < spread(128) / spread(1) < 4


def test_drops_out_only_in_training():
    apply, variables = initialized(MLP((32, 32, 32), 3, dropout=0.5))
    draw = lambda seed: apply(variables, X, train=True, rngs={"dropout": jax.random.key(seed)})  # noqa: E731
    np.testing.assert_array_equal(apply(variables, X), apply(variables, X))
    np.testing.assert_array_equal(draw(1), draw(1))
    assert (draw(1) != draw(2)).any()
    plain = MLP((32, 32, 32), 3)
    np.testing.assert_allclose(apply(variables, X), plain.apply(variables, X), rtol=1e-5, atol=1e-6)


def test_layers_of_a_scan_drop_out_differently():
    # Kernels of identity and inputs of 1: after 12 layers a unit is 0 if any layer dropped it.
    model = MLP((512,) * 12, 1, "identity", dropout=0.1)
    _, variables = initialized(model, jnp.ones((1, 512)))
    eye = jnp.eye(512)
    variables["params"]["input"]["kernel"] = eye
    variables["params"]["stack_0"]["dense"]["kernel"] = jnp.stack([eye] * 11)
    variables["params"]["output"]["kernel"] = jnp.ones((512, 1)) / 512
    y = model.apply(variables, jnp.ones((1, 512)), train=True, rngs={"dropout": jax.random.key(0)})
    # Units that live are 0.9⁻¹² high; with one mask for all layers 460 would live, here 145.
    alive = y.item() * 512 * 0.9**12
    assert 90 < alive < 200


def test_batch_statistics_move_only_in_training():
    apply, variables = initialized(MLP((8, 8, 8), 3, normalization="batch"))
    stats = variables["batch_stats"]
    _, mutated = apply(variables, X, train=True, mutable=("batch_stats",))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), stats, mutated["batch_stats"])
    assert all(jax.tree.leaves(moved))
    _, mutated = apply(variables, X, mutable=("batch_stats",))
    jax.tree.map(np.testing.assert_array_equal, stats, mutated["batch_stats"])


@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_is_the_same_compiled_and_not(normalization):
    model = MLP((8, 8, 8), 3, normalization=normalization)
    apply, variables = initialized(model)
    np.testing.assert_allclose(apply(variables, X), model.apply(variables, X), rtol=1e-5, atol=1e-6)


def test_has_finite_gradients_in_bfloat16():
    model = MLP((32,) * 12, 3, residual=True, normalization="layer", dtype="bfloat16")
    apply, variables = initialized(model)
    assert apply(variables, X).dtype == jnp.float32
    gradient = jax.jit(jax.grad(lambda variables: jnp.square(model.apply(variables, X)).sum()))
    for leaf in jax.tree.leaves(gradient(variables)):
        assert leaf.dtype == jnp.float32
        assert jnp.isfinite(leaf).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden": (8, 0)}, r"hidden=\(8, 0\) of MLP must hold widths of 1 or more"),
        ({"hidden": (8, 2.5)}, r"hidden=\(8, 2.5\) of MLP"),
        ({"outputs": 0}, "outputs=0 of MLP must be 1 or more"),
        ({"dropout": 1.0}, r"dropout=1.0 of MLP must be in \[0, 1\)"),
        ({"activation": "tan"}, "activation='tan' is not known; did you mean 'tanh'"),
        ({"normalization": "layr"}, "normalization='layr' is not known; did you mean 'layer'"),
        ({"dtype": "bf16"}, "dtype='bf16' is not known"),
    ],
)
def test_refuses_a_bad_field(fields, message):
    with pytest.raises(UsageError, match=message):
        MLP(**{"hidden": (8,), "outputs": 3, **fields}).init(jax.random.key(0), X)
