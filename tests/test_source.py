"""Sources: what their examples are checked for; the datasets' tests see the rest."""

from __future__ import annotations

import numpy as np
import pytest

from deeplearn.data.source import Field, check_examples
from deeplearn.errors import DataError


def test_check_examples_names_the_example_of_an_infinity():
    values = np.zeros((3, 2), np.float32)
    values[1, 0] = np.inf
    with pytest.raises(DataError, match="example 42 "):
        check_examples({"x": values}, {"x": Field((2,), "float32")}, np.array([7, 42, 9]))
