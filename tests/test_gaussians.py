"""The grid of Gaussians: its centres, spread and splits."""

from __future__ import annotations

import numpy as np
import pytest

from deeplearn.data.gaussians import GaussianGrid
from deeplearn.errors import UsageError


def test_points_lie_around_their_centres():
    """20,000 points: every centre is met, and the deviation is 0.05 to 1 %."""
    source = GaussianGrid()
    fields = source.gather(np.arange(len(source)))
    away = fields["x"] - source.centres[fields["label"]]
    assert fields["x"].dtype == np.float32 and fields["label"].dtype == np.int32
    np.testing.assert_allclose(away.std(0), 0.05, rtol=0.01)
    assert np.bincount(fields["label"]).min() > 700
    np.testing.assert_array_equal(
        source.centres[[0, 1, 5, 24]], [[-1, -1], [-1, -0.5], [-0.5, -1], [1, 1]]
    )


def test_a_seed_is_a_split():
    one, same, other = (GaussianGrid(100, seed=seed) for seed in (0, 0, 1))
    assert one.digest == same.digest != other.digest


@pytest.mark.parametrize("fields", [{"count": 0}, {"side": 1}, {"deviation": 0.0}])
def test_what_cannot_work_is_refused(fields):
    with pytest.raises(UsageError, match="grid of Gaussians"):
        GaussianGrid(**fields)
