"""The rotary embedding against its angles, worked out in NumPy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.layers.rotary import rotate

K, BASE = 64, 500_000.0
POSITIONS = np.array([[0, 1, 7, 100]])


def scaled(frequency, factor, low, high, length):
    """The frequencies of Llama 3.1, case by case as they were published."""
    found = []
    for value in frequency:
        wavelength = 2 * np.pi / value
        if wavelength < length / high:
            found.append(value)
        elif wavelength > length / low:
            found.append(value / factor)
        else:
            smooth = (length / wavelength - low) / (high - low)
            found.append((1 - smooth) * value / factor + smooth * value)
    return np.array(found)


@pytest.mark.parametrize("scaling", [None, (32.0, 1.0, 4.0, 8192), (8.0, 0.5, 6.0, 64)])
def test_each_pair_is_turned_by_its_angle(scaling):
    plain = 1 / BASE ** (np.arange(0, K, 2) / K)
    frequency = plain if scaling is None else scaled(plain, *scaling)
    if scaling is not None:
        stretch = plain / frequency
        between = (stretch > 1) & (stretch < scaling[0])
        assert (stretch == 1).any() and between.any() and (stretch == scaling[0]).any()
    angle = POSITIONS[..., None, None] * frequency
    first, second = np.random.default_rng(0).normal(size=(2, 1, 4, 2, K // 2))
    x = np.concatenate([first, second], axis=-1).astype(np.float32)
    turned = (first + 1j * second) * np.exp(1j * angle)
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(
        rotate(x, jnp.asarray(POSITIONS), BASE, scaling), expected, atol=5e-5
    )
