"""Black and white of a source, whatever its unit."""

import numpy as np

from deeplearn.data.memory import Arrays
from deeplearn.data.pixels import PixelRange

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), np.uint8)
PIXELS[0, 0, 0], PIXELS[49, 0, 0] = 0, 255


def test_sources_that_scale_the_same_images_agree_on_the_unit():
    plain = Arrays({"x": PIXELS})
    scaled = Arrays({"x": PIXELS}, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    index = np.arange(50)
    mine, other = (each.gather(index)["x"] for each in (plain, scaled))
    np.testing.assert_allclose(PixelRange.of(plain).unit(mine), PIXELS / 255, atol=1e-6)
    np.testing.assert_allclose(PixelRange.of(scaled).unit(other), PIXELS / 255, atol=1e-6)
    np.testing.assert_allclose(PixelRange.of(scaled).restored(mine), other, atol=1e-5)


def test_what_lies_beyond_is_cut_and_nan_stays():
    pixels = PixelRange(np.float32([0.0]), np.float32([2.0]))
    found = pixels.unit(np.float32([[-1.0], [1.0], [3.0], [np.nan]]))
    np.testing.assert_array_equal(found, [[0], [0.5], [1], [np.nan]])


def test_a_channel_without_contrast_divides_by_nothing():
    x = np.zeros((5, 2, 2, 1), np.float32)
    assert (PixelRange.of(Arrays({"x": x})).unit(x) == 0).all()
