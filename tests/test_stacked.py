"""K steps in one batch hold exactly the batches of the K steps, for any rows."""

import numpy as np
import pytest

from deeplearn.data.dataset import Shuffled
from deeplearn.data.memory import Arrays
from deeplearn.data.stacked import Stacked

DATA = Arrays({"x": np.arange(10.0), "label": np.arange(10)})


@pytest.mark.parametrize("rows", [slice(0, 4), slice(1, 3)])
def test_stacked_batches_are_those_of_the_steps(rows):
    dataset = Shuffled(DATA, batch_size=4, seed=1)
    stacked = Stacked(dataset, 3).batch(6, rows)
    for offset in range(3):
        single = dataset.batch(6 + offset, rows)
        for name, value in single.items():
            np.testing.assert_array_equal(stacked[name][offset], value)
            assert stacked[name].dtype == value.dtype
