"""Moving digits: a pure function of (seed, index), real digits, reflection at the borders."""

from __future__ import annotations

import numpy as np
import pytest

from deeplearn.data.bundled import Bundled
from deeplearn.data.dataset import Sequential, Shuffled
from deeplearn.data.memory import Arrays
from deeplearn.data.moving_digits import MovingDigits, bounced, enlargement
from deeplearn.errors import DataError, UsageError

INDICES = np.array([3, 99_999, 0, 3], np.int64)
ONE = Arrays({"x": np.ones((1, 4, 4, 1), np.float32)})


def test_a_clip_is_a_function_of_seed_and_index_alone():
    source = MovingDigits(size=100_000)
    x = source.gather(INDICES)["x"]
    assert x.shape == (4, 8, 32, 32, 1) and x.dtype == np.float32
    for row, index in enumerate(INDICES):
        np.testing.assert_array_equal(MovingDigits().gather(np.array([index]))["x"][0], x[row])
    assert len({clip.tobytes() for clip in x}) == 3
    assert not np.array_equal(MovingDigits(seed=1).gather(INDICES)["x"], x)
    assert x.min() == -1 and 0.9 < x.max() <= 1


def test_a_longer_clip_begins_with_the_shorter_one():
    short, long = (MovingDigits(frames=frames).gather(INDICES)["x"] for frames in (5, 9))
    np.testing.assert_array_equal(long[:, :5], short)


def test_frames_hold_enlarged_digits_of_the_source():
    """One digit that does not move, cut out where it lies, is one of the source."""
    x = MovingDigits(count=1, scale=1, side=40).gather(np.arange(20))["x"]
    digits = {digit.tobytes() for digit in 2 * Bundled("digits").arrays["x"][..., 0] - 1}
    for frame in x[:, ::3, ..., 0].reshape(-1, 40, 40):
        windows = np.lib.stride_tricks.sliding_window_view(frame, (8, 8)).reshape(-1, 8, 8)
        assert any(window.tobytes() in digits for window in windows)
        # Nothing is lost at a border and nothing else is drawn.
        assert max((window + 1).sum() for window in windows) == pytest.approx((frame + 1).sum())


def test_where_digits_overlap_the_brighter_pixel_is_seen():
    levels = Arrays(
        {"x": np.array([0.25, 0.75], np.float32).reshape(2, 1, 1, 1) * np.ones((4, 4, 1))}
    )
    x = MovingDigits(levels, side=5, scale=1).gather(np.arange(64))["x"]
    bright = (x == 0.5).sum((2, 3, 4))
    assert set(np.unique(x)) == {-1.0, -0.5, 0.5}
    assert ((bright >= 16) | (bright == 0)).all()


def test_a_place_is_that_of_a_point_reflected_step_by_step():
    generator = np.random.default_rng(0)
    start, velocity = generator.uniform(size=50), generator.uniform(-30, 30, 50)
    for row, places in enumerate(bounced(7, 12, start, velocity)):
        place, speed = start[row] * 7, velocity[row]
        for found in places:
            assert found == np.rint(place)
            place += speed
            while not 0 <= place <= 7:
                place, speed = (-place if place < 0 else 14 - place), -speed


def test_a_digit_without_room_stays_and_one_without_speed_does_too():
    x = MovingDigits(ONE, count=1, scale=2, side=8).gather(np.arange(3))["x"]
    assert (x == 1).all()
    still = MovingDigits(ONE, speed=0.0).gather(np.arange(3))["x"]
    np.testing.assert_array_equal(still, np.broadcast_to(still[:, :1], still.shape))


def test_all_digits_and_places_occur_equally_often():
    """2000 clips: each of 4 digits, and both halves of the room, within four standard errors."""
    levels = np.array([1, 2, 3, 4], np.float32).reshape(4, 1, 1, 1) / 4
    source = MovingDigits(Arrays({"x": levels}), size=2000, frames=6, count=1, scale=1, side=40)
    x = source.gather(np.arange(2000))["x"][..., 0]
    counts = [(x[:, 0].max((1, 2)) == 2 * level - 1).sum() for level in levels.ravel()]
    assert sum(counts) == 2000 and np.abs(np.array(counts) - 500).max() < 4 * 375**0.5
    upper = (x[:, -1].max(2) > -1).argmax(1) < 20
    assert abs(upper.sum() - 1000) < 4 * 500**0.5


def test_images_of_28_pixels_move_at_their_own_size_over_64():
    """As in the paper: MNIST is bytes, which leave the source in [0, 1]."""
    digits = np.zeros((3, 28, 28, 1), np.uint8)
    digits[:, 4:24, 4:24] = np.array([85, 170, 255], np.uint8).reshape(3, 1, 1, 1)
    source = MovingDigits(Arrays({"x": digits}), frames=20, side=64, scale=1)
    x = source.gather(np.arange(16))["x"]
    assert x.shape == (16, *source.spec["x"].shape) == (16, 20, 64, 64, 1)
    np.testing.assert_allclose(np.unique(x), [-1, -1 / 3, 1 / 3, 1], atol=1e-6)
    seen = (x > -1).sum((2, 3, 4))
    assert (seen >= 400).all() and (seen <= 800).all() and (seen == 800).any()


def test_enlarging_interpolates_between_pixels_and_keeps_a_ramp():
    np.testing.assert_array_equal(enlargement(5, 1), np.eye(5))
    matrix = enlargement(6, 3)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    inner = slice(1, -1)
    np.testing.assert_allclose(
        (matrix @ np.arange(6.0))[inner], ((np.arange(18) - 1) / 3)[inner], atol=1e-6
    )


def test_clips_train_and_evaluate_in_batches():
    source = MovingDigits(size=10)
    batch = Shuffled(source, 4, seed=0).batch(2, slice(0, 4))["x"]
    assert batch.shape == (4, *source.spec["x"].shape)
    assert Sequential(source, 4).batch(2, slice(0, 4))["mask"].tolist() == [1, 1, 0, 0]


def test_the_digest_tells_digits_and_motion():
    sources = [MovingDigits(), MovingDigits(seed=1), MovingDigits(speed=1.0), MovingDigits(ONE)]
    assert len({source.digest for source in sources}) == 4
    assert MovingDigits().digest == sources[0].digest


@pytest.mark.parametrize("field", ["size", "frames", "side", "count", "scale", "speed"])
def test_numbers_that_cannot_be_are_refused(field):
    with pytest.raises(UsageError, match=f"MovingDigits: {field}=-1 must be"):
        MovingDigits(**{field: -1})


@pytest.mark.parametrize(
    ("digits", "fields", "message"),
    [
        (ONE, {"scale": 9}, "36 × 36 pixels do not fit into side=32"),
        (
            Arrays({"x": np.full((1, 4, 4, 1), 1.5)}),
            {},
            r"in \[0, 1\], got 1.5 .*leave out its mean",
        ),
        (Arrays({"x": np.ones((1, 4, 4, 3))}), {}, "needs grey images"),
        (Arrays({"x": np.ones((1, 4))}), {}, "needs grey images"),
    ],
)
def test_images_that_do_not_fit_are_refused(digits, fields, message):
    with pytest.raises(DataError, match=message):
        MovingDigits(digits, **fields).gather(np.arange(2))
