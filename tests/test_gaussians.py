"""The mixtures of Gaussians and the count of covered modes."""

import numpy as np
import pytest

from deeplearn.data.gaussians import Gaussians
from deeplearn.errors import UsageError
from deeplearn.mode_count import mode_count

KINDS = pytest.mark.parametrize(("kind", "count"), [("ring", 8), ("grid", 25)])


@KINDS
def test_modes_have_their_place_deviation_and_weight(kind, count):
    source = Gaussians(kind, size=20_000)
    x, label = source.arrays["x"], source.arrays["label"]
    assert source.modes.shape == (count, 2) and len(source) == 20_000
    for mode in range(count):
        points = x[label == mode]
        assert len(points) == pytest.approx(20_000 / count, rel=0.2)
        np.testing.assert_allclose(points.mean(0), source.modes[mode], atol=source.deviation / 4)
        np.testing.assert_allclose(points.std(0), source.deviation, rtol=0.15)
    radius = np.linalg.norm(source.modes, axis=1)
    assert radius.max() == pytest.approx(1.0 if kind == "ring" else np.sqrt(2))
    assert radius.min() == pytest.approx(1.0 if kind == "ring" else 0.0)


def test_the_seed_tells_the_points():
    one, same, other = Gaussians(seed=1), Gaussians(seed=1), Gaussians(seed=2)
    assert one.digest == same.digest != other.digest


@KINDS
def test_the_data_cover_every_mode(kind, count):
    source = Gaussians(kind)
    found = mode_count(source.arrays["x"], source.modes, source.deviation)
    assert found.covered == count
    # A share of 1 − e^(−9/2) lies within 3σ in the plane.
    assert found.quality == pytest.approx(1 - np.exp(-4.5), abs=0.002)


def test_lost_thin_and_distant_modes_do_not_count():
    source = Gaussians("ring", size=8000)
    x, label = source.arrays["x"], source.arrays["label"]
    lost = x[(label != 3) & (label != 5)]
    assert mode_count(lost, source.modes, source.deviation).covered == 6
    thin = np.concatenate([lost, x[label == 3][:20]])
    assert mode_count(thin, source.modes, source.deviation).covered == 6
    assert mode_count(thin, source.modes, source.deviation, least_share=0.0).covered == 7
    shifted = mode_count(x * 1.2, source.modes, source.deviation)
    assert shifted.covered == 0 and shifted.quality < 0.01


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(UsageError, match="did you mean 'ring'"):
        Gaussians("rings")
    with pytest.raises(UsageError, match="size = 0"):
        Gaussians(size=0)
    with pytest.raises(UsageError, match="mode_count"):
        mode_count(np.zeros((0, 2)), np.zeros((8, 2)), 0.1)
