"""ResNet: the published counts, the start as identity, modes and bad fields."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.models.resnet import ResNet, _Basic, _Bottleneck


def shapes(model, image):
    """The parameters' shapes, by path."""
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *image))))
    return variables["params"]


def images(shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@pytest.fixture(scope="module")
def cifar():
    model, x = ResNet(8, 10, width=4), images((2, 12, 12, 1))
    return model, x, jax.jit(model.init)(jax.random.key(0), x)


@pytest.mark.parametrize(
    ("depth", "image", "outputs", "expected"),
    [
        (18, 224, 1000, 11_689_512),
        (34, 224, 1000, 21_797_672),
        (50, 224, 1000, 25_557_032),
        (101, 224, 1000, 44_549_160),
        (152, 224, 1000, 60_192_808),
        (20, 32, 10, 269_722),
        (56, 32, 10, 853_018),
        (110, 32, 10, 1_727_962),
    ],
)
def test_has_the_published_number_of_parameters(depth, image, outputs, expected):
    params = shapes(ResNet(depth, outputs), (image, image, 3))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_counts_its_layers():
    """`depth` is the number of convolutions on the longest path and the dense layer."""
    for depth in (18, 50, 56):
        params = shapes(ResNet(depth, 10), (32, 32, 3))
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
        assert sum("kernel" in path and "projection" not in path for path in paths) == depth


def test_width_doubles_with_every_stage():
    params = shapes(ResNet(8, 10, width=24), (28, 28, 1))
    assert params["stem"]["conv"]["kernel"].shape == (3, 3, 1, 24)
    assert params["stage3_block1"]["second"]["conv"]["kernel"].shape == (3, 3, 96, 96)
    assert params["output"]["kernel"].shape == (96, 10)


@pytest.mark.parametrize("block", [_Basic, _Bottleneck])
@pytest.mark.parametrize(("stride", "projection"), [(1, True), (2, True), (2, False)])
def test_every_block_starts_as_its_shortcut(block, stride, projection):
    """With the last scale of F at 0, the kernels of F do not change the output."""
    block = block(4, stride, projection, "float32")
    x = images((2, 8, 8, 4))

    @jax.jit
    def run(key):
        variables = block.init(key, x, train=False)

        def scaled(path, leaf):
            return leaf if "projection" in jax.tree_util.keystr(path) else 3 * leaf

        other = jax.tree_util.tree_map_with_path(scaled, variables["params"])
        return [
            block.apply({**variables, "params": p}, x, False) for p in (variables["params"], other)
        ]

    y, same = run(jax.random.key(0))
    assert (y != 0).any()
    np.testing.assert_allclose(y, same, rtol=1e-5)


def test_shortcut_without_parameters_subsamples_and_pads(cifar):
    model, x, variables = cifar
    _, inside = model.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])
    inside = inside["intermediates"]
    before, after = inside["stage1_block1"]["__call__"][0], inside["stage2_block1"]["__call__"][0]
    # F is 0 at the start and `before` is positive, so the block's output is its shortcut.
    np.testing.assert_array_equal(after[..., :4], before[:, ::2, ::2])
    assert (after[..., 4:] == 0).all()


def test_batch_statistics_move_only_in_training(cifar):
    model, x, variables = cifar
    apply = jax.jit(model.apply, static_argnames=("train", "mutable"))
    y, mutated = apply(variables, x, train=True, mutable=("batch_stats",))
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), variables["batch_stats"], mutated["batch_stats"]
    )
    assert all(jax.tree.leaves(moved))
    evaluated, same = apply(variables, x, mutable=("batch_stats",))
    assert (y != evaluated).all()
    jax.tree.map(np.testing.assert_array_equal, variables["batch_stats"], same["batch_stats"])


def test_is_the_same_compiled_and_not(cifar):
    model, x, variables = cifar
    y = jax.jit(model.apply)(variables, x)
    np.testing.assert_allclose(y, model.apply(variables, x), rtol=1e-5, atol=1e-6)


def test_has_finite_gradients_in_bfloat16(cifar):
    model, x, variables = cifar
    model = model.clone(dtype="bfloat16")

    @jax.jit
    @jax.grad
    def gradient(params):
        y, _ = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.square(y).sum()

    for leaf in jax.tree.leaves(gradient(variables["params"])):
        assert leaf.dtype == jnp.float32
        assert jnp.isfinite(leaf).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 19}, "depth=19 of ResNet is not known; choose one of: 18, 34, 50, 101, 152"),
        ({"depth": 2}, "depth=2 of ResNet is not known"),
        ({"width": 0}, "width=0 of ResNet must be 1 or more"),
        ({"outputs": 0}, "outputs=0 of ResNet must be 1 or more"),
        ({"dtype": "float31"}, "dtype='float31' is not known"),
    ],
)
def test_refuses_a_bad_field(fields, message):
    with pytest.raises(UsageError, match=message):
        shapes(ResNet(8, 10).clone(**fields), (28, 28, 1))


def test_refuses_what_is_no_image():
    with pytest.raises(UsageError, match=r"ResNet takes images \(B, Y, X, C\)"):
        ResNet(8, 10).init(jax.random.key(0), jnp.zeros((2, 784)))
