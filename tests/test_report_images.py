"""Pictures: what lies where in a grid, a scatter and an animation; what has no picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from deeplearn.data.gaussians import Gaussians
from deeplearn.data.memory import Arrays
from deeplearn.errors import StorageError, UsageError
from deeplearn.report.images import GAP, Gallery, grid, scatter

WHITE, BLACK = 255, 0


def pixels(image):
    return np.asarray(image).astype(int)


def test_a_grid_is_filled_row_by_row_at_a_size_that_can_be_seen():
    images = np.stack([np.full((28, 28, 1), shade) for shade in (0.0, 0.2, 0.4, 0.6, 0.8)])
    found = pixels(grid(images, 3))
    step = 56 + GAP
    assert found.shape == (2 * step - GAP, 3 * step - GAP)
    assert found[::step, ::step].tolist() == [[0, 51, 102], [153, 204, WHITE]]
    assert (found[56:58] == WHITE).all() and (found[:, 56:58] == WHITE).all()
    assert (found[:56, 58:114] == 51).all()


def test_large_images_and_colours_stay_as_they_are_and_nan_is_black():
    image = np.random.default_rng(0).uniform(size=(1, 64, 60, 3))
    np.testing.assert_array_equal(pixels(grid(image, 8)), np.rint(255 * image[0]))
    assert (pixels(grid(np.full((1, 64, 64, 1), np.nan), 1)) == BLACK).all()


def test_points_lie_where_their_coordinates_say():
    """Up is up: of four corners the last one drawn, (1, 1), is right above."""
    corners = np.array([(-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0)])
    found = pixels(scatter(corners[3:], corners))
    blue = found[..., 2] - found[..., 0] > 100
    rows, columns = np.nonzero(blue)
    assert abs(rows.mean() - 40) < 2 and abs(columns.mean() - 440) < 2
    grey = (found.max(-1) - found.min(-1) < 5) & (found[..., 0] < 230)
    assert grey[:240, 240:].sum() == 0 < grey[240:, 240:].sum()


@pytest.mark.parametrize("shape", [(9, 8, 8, 1), (9, 3, 8, 8, 3)])
def test_images_are_one_picture_and_clips_move(shape, tmp_path):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    gallery = Gallery(Arrays({"x": x}), tmp_path / "new")
    path = gallery.save("some", x[:4], 2)
    with Image.open(path) as picture:
        assert getattr(picture, "n_frames", 1) == (1 if len(shape) == 4 else 3)
        assert picture.size == (2 * 56 + GAP, 2 * 56 + GAP)
    assert path == gallery.save("some", x[:4], 2)


def test_a_picture_has_the_range_of_the_data(tmp_path):
    x = np.linspace(-3, 5, 64, dtype=np.float32).reshape(1, 8, 8, 1)
    path = Gallery(Arrays({"x": x}), tmp_path).save("one", x, 1)
    found = pixels(Image.open(path))[::7, ::7].ravel()
    np.testing.assert_array_equal(found, np.rint(255 * np.linspace(0, 1, 64)))


def test_an_animation_has_all_frames_and_rests_on_the_last(tmp_path):
    x = np.random.default_rng(0).normal(size=(5, 30, 2)).astype(np.float32)
    with Image.open(Gallery(Gaussians("ring", 50), tmp_path).animate("path", x, 8)) as picture:
        assert picture.n_frames == 5
        times = []
        for frame in range(5):
            picture.seek(frame)
            times.append(picture.info["duration"])
        assert times == [100, 100, 100, 100, 1500]


@pytest.mark.parametrize("shape", [(9,), (9, 3), (9, 8, 8, 2)])
def test_what_has_no_picture_is_refused(shape, tmp_path):
    source = Arrays({"x": np.zeros(shape, np.float32)})
    assert not Gallery.can_show(source) and not Gallery.can_show(Arrays({"y": np.zeros((3, 2))}))
    with pytest.raises(UsageError, match="pictures show images, clips and points"):
        Gallery(source, tmp_path)


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    x = np.zeros((2, 8, 8, 1), np.float32)
    with pytest.raises(StorageError, match="file"):
        Gallery(Arrays({"x": x}), tmp_path / "file" / "samples").save("one", x, 1)
