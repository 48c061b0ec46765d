"""The mixtures of Gaussians: where their modes lie, and what tells the points."""

import numpy as np
import pytest

from deeplearn.data.gaussians import Gaussians
from deeplearn.errors import UsageError


@pytest.mark.parametrize(("kind", "count"), [("ring", 8), ("grid", 25)])
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


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(UsageError, match="did you mean 'ring'"):
        Gaussians("rings")
    with pytest.raises(UsageError, match="size = 0"):
        Gaussians(size=0)
