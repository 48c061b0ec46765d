"""Muon: which kernels it makes orthogonal, how large its updates are, and what AdamW keeps."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from descent import descend

from deeplearn.muon import muon_direction, orthogonal
from deeplearn.optimizers import Muon
from deeplearn.schedules import Linear


def test_muon_converges_where_parameters_are_matrices():
    inputs, target = np.random.default_rng(0).normal(size=(2, 5, 5)).astype(np.float32)
    loss = lambda params: jnp.square(inputs @ params["kernel"] - target).sum()  # noqa: E731
    optimizer = Muon(learning_rate=0.1, weight_decay=0.0, schedule=Linear())
    params = {"kernel": jnp.zeros((5, 5))}
    end, _, _ = descend(optimizer, loss, params, steps=1000)
    assert loss(end) < 1e-3 * loss(params)


def test_muon_makes_the_update_of_a_kernel_orthogonal_and_as_large_as_adams():
    generator = np.random.default_rng(0)
    params = {"kernel": jnp.zeros((3, 3, 8, 16)), "bias": jnp.zeros(16)}
    gradients = jax.tree.map(lambda p: generator.normal(size=p.shape).astype(np.float32), params)
    optimizer = Muon(learning_rate=1.0, weight_decay=0.0)
    updates, _ = jax.jit(optimizer.build(1).update)(
        gradients, optimizer.build(1).init(params), params
    )
    matrix = -np.asarray(updates["kernel"]).reshape(72, 16)
    # 16 orthogonal columns of 72: 0.2 · √72 each; five iterations leave up to a third.
    singular = np.linalg.svd(matrix, compute_uv=False) / (0.2 * math.sqrt(72))
    assert 0.6 < singular.min() < singular.max() < 1.3
    u, _, v = np.linalg.svd(gradients["kernel"].reshape(72, 16), full_matrices=False)
    assert np.trace((u @ v).T @ matrix) > 0.9 * np.linalg.norm(u @ v) * np.linalg.norm(matrix)


@pytest.mark.parametrize("shape", [(72, 16), (16, 72), (16, 16)])
@pytest.mark.parametrize("smallest", [1.0, 1e-3, 0.0])
def test_the_gram_matrix_gives_what_newton_schulz_gives_in_float64(shape, smallest):
    u, _, v = np.linalg.svd(np.random.default_rng(0).normal(size=shape), full_matrices=False)
    singular = np.linspace(1, smallest, 16)
    x = singular / np.linalg.norm(singular)
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    found = orthogonal(jnp.asarray(u * singular @ v, jnp.float32))
    np.testing.assert_allclose(found, u * x @ v, atol=1e-4)


def test_singular_values_come_out_as_told():
    share = np.geomspace(0.0016, 0.999, 200)
    diagonals = np.stack([share, np.sqrt(1 - share**2)], axis=-1)[:, :, None] * np.eye(2)
    found = np.diagonal(orthogonal(jnp.asarray(diagonals, jnp.float32)), axis1=1, axis2=2)
    assert 0.68 < found.min() < 0.7 and 1.19 < found.max() < 1.21


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1e6])
def test_the_size_of_a_momentum_does_not_matter_and_none_stays_none(scale):
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
    expected = orthogonal(kernel) if scale else jnp.zeros((6, 4))
    np.testing.assert_allclose(orthogonal(scale * kernel, eps=1e-20), expected, rtol=0.01)


def test_a_momentum_of_low_rank_and_precision_is_computed_in_float32():
    left, right = np.random.default_rng(0).normal(size=(2, 128, 4))
    kernel = jnp.asarray(left @ right[:64].T, jnp.bfloat16)
    found = orthogonal(kernel)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        found.astype(jnp.float32), orthogonal(kernel.astype(jnp.float32)), atol=2e-3
    )


def test_every_product_has_the_highest_precision():
    text = jax.jit(orthogonal).lower(jnp.ones((6, 4))).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products and all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_muon_of_varying_gradients_is_that_of_optax():
    gradients = np.random.default_rng(0).normal(size=(200, 24, 8)).astype(np.float32)
    gradients += np.random.default_rng(1).normal(size=(24, 8)).astype(np.float32)
    params = {"kernel": jnp.zeros((24, 8))}
    peer = optax.contrib.muon(-1.0, consistent_rms=0.2)

    def updates(optimizer):
        def step(state, gradient):
            return optimizer.update({"kernel": gradient}, state, params)[::-1]

        return jax.lax.scan(step, optimizer.init(params), gradients)[1]["kernel"]

    found, expected = updates(muon_direction(0.95, 0.9, 0.999, 1e-8, "^$")), updates(peer)
    # optax corrects its mean over the first gradients, of which the last few know nothing.
    np.testing.assert_allclose(found[-5:], expected[-5:], atol=1e-4)


def test_muon_takes_each_stacked_layer_alone():
    generator = np.random.default_rng(0)
    kernels = jnp.asarray(generator.normal(size=(2, 6, 4)), jnp.float32)
    optimizer = Muon(learning_rate=1.0).build(1)

    def update(params):
        return optimizer.update(params, optimizer.init(params), params)[0]

    stacked = update({"layers": {"dense": {"kernel": kernels}}})["layers"]["dense"]["kernel"]
    for index, kernel in enumerate(kernels):
        alone = update({"dense": {"kernel": kernel}})["dense"]["kernel"]
        np.testing.assert_allclose(stacked[index], alone, rtol=1e-5)


@pytest.mark.parametrize(
    ("path", "muon"),
    [
        ("input", False),
        ("output", False),
        ("generator/input", False),
        ("discriminator/head/output", False),
        ("layers/blocks_0/mixer/conv", False),
        ("hidden", True),
        ("stage0_block1/first/conv", True),
        ("layers/blocks_0/mixer/output", True),
        ("layers/blocks_0/feed_forward/input", True),
    ],
)
def test_muon_leaves_all_but_hidden_kernels_to_adamw(path, muon):
    layer = {"kernel": jnp.full((2, 4, 3), 0.5), "bias": jnp.full(3, 0.5)}
    decays = {"kernel": True, "bias": False}
    for name in reversed(path.split("/")):
        layer, decays = {name: layer}, {name: decays}
    params = {**layer, "class_embedding": jnp.full((4, 3), 0.5)}
    gradients = jax.tree.map(lambda p: jnp.cos(jnp.arange(float(p.size))).reshape(p.shape), params)
    mask = {**decays, "class_embedding": False}
    adamw = optax.adamw(0.1, weight_decay=0.2, nesterov=True, mask=mask)
    ours = Muon(learning_rate=0.1, weight_decay=0.2).build(1)
    expected, updates = (
        optimizer.update(gradients, optimizer.init(params), params)[0]
        for optimizer in (adamw, ours)
    )
    equal = jax.tree.map(lambda a, b: bool(jnp.allclose(a, b, rtol=1e-5)), expected, updates)
    flat = {
        jax.tree_util.keystr(key[-1:], simple=True): x
        for key, x in jax.tree.leaves_with_path(equal)
    }
    assert flat == {"kernel": not muon, "bias": True, "class_embedding": True}


def test_muon_leaves_kernels_of_one_axis_to_adamw_stacked_or_not():
    params = {"gate": {"kernel": jnp.ones(3)}, "layers": {"gate": {"kernel": jnp.ones((2, 3))}}}
    gradients = jax.tree.map(lambda p: jnp.cos(jnp.arange(float(p.size))).reshape(p.shape), params)
    adamw = optax.adamw(0.1, weight_decay=0.0, nesterov=True)
    expected, updates = (
        optimizer.update(gradients, optimizer.init(params), params)[0]
        for optimizer in (adamw, Muon(learning_rate=0.1, weight_decay=0.0).build(1))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), expected, updates)
