"""The count of the modes that points cover."""

import numpy as np
import pytest

from deeplearn.data.gaussians import Gaussians
from deeplearn.errors import UsageError
from deeplearn.mode_count import mode_count


@pytest.mark.parametrize(("kind", "count"), [("ring", 8), ("grid", 25)])
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


def test_points_that_cannot_be_counted_are_refused():
    with pytest.raises(UsageError, match="mode_count"):
        mode_count(np.zeros((0, 2)), np.zeros((8, 2)), 0.1)
