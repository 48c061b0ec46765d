"""The convolution of a doubled image equals XLA's of the image doubled first."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from deeplearn.errors import UsageError
from deeplearn.layers.convolution import Conv
from deeplearn.layers.upsampled_convolution import UpsampledConv, convolve_upsampled

AXES = ("NHWC", "HWIO", "NHWC")
KERNELS = [(3, 3), (5, 5), (1, 1), (2, 4), (4, 3)]


def plain(x, kernel):
    """Every pixel four times, and XLA's own convolution."""
    doubled = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return lax.conv_general_dilated(doubled, kernel, (1, 1), "SAME", dimension_numbers=AXES)


def arguments(size, rows=16):
    """Images and a kernel; 16 images have pixels enough for the smaller form, 2 have not."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in ((rows, 4, 5, 9), (*size, 9, 3))]


def value_and_gradients(function, x, kernel):
    def loss(x, kernel):
        y = function(x, kernel)
        return jnp.sin(y).sum(), y

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(x, kernel)


assert_close = partial(jax.tree.map, partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3))


@pytest.mark.parametrize("rows", [2, 16])
@pytest.mark.parametrize("size", KERNELS)
def test_equals_doubling_in_value_and_gradient(size, rows):
    given = arguments(size, rows)
    assert_close(*(value_and_gradients(form, *given) for form in (convolve_upsampled, plain)))


def test_is_the_same_inside_a_scan():
    x, kernel = arguments((3, 3))

    @jax.jit
    def run(images):
        def body(carry, x):
            return carry, value_and_gradients(convolve_upsampled, x, kernel)

        return lax.scan(body, 0, images)[1]

    images = np.stack([x, 2 * x])
    scanned = run(images)
    for i, image in enumerate(images):
        expected = value_and_gradients(plain, image, kernel)
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], scanned), expected)


def test_a_gradient_penalty_has_a_gradient():
    x, kernel = arguments((3, 3))

    def penalty(form, kernel):
        return jnp.square(jax.grad(lambda x: jnp.sin(form(x, kernel)).sum())(x)).sum()

    one, two = (
        jax.jit(jax.grad(partial(penalty, form)))(kernel) for form in (convolve_upsampled, plain)
    )
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4 * np.abs(two).max())


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only CPU has the smaller form")
def test_a_3x3_kernel_takes_four_products_of_nine():
    x, kernel = arguments((3, 3))
    one, two = (
        jax.jit(form).lower(x, kernel).compile().cost_analysis()["flops"]
        for form in (convolve_upsampled, plain)
    )
    assert one < 0.6 * two


def test_the_layer_has_the_parameters_and_the_dtype_of_conv(key):
    x = arguments((3, 3))[0]
    doubled = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)
    one, two = (layer(4, 3, dtype="bfloat16") for layer in (UpsampledConv, Conv))
    variables = jax.tree.map(lambda leaf: leaf + 0.1, two.init(key, doubled))
    y, expected = one.apply(variables, x), two.apply(variables, doubled)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(*(v.astype(np.float32) for v in (y, expected)), atol=0.1)


@pytest.mark.parametrize("field", [{"strides": 2}, {"padding": "VALID"}])
def test_other_strides_and_paddings_are_refused(key, field):
    with pytest.raises(UsageError, match="UpsampledConv has strides 1 and padding 'SAME'"):
        UpsampledConv(4, **field).init(key, arguments((3, 3))[0])
