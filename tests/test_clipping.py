"""Clipping of every array of a gradient for itself."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from descent import GRADIENTS, one_update

from deeplearn.optimizers import SGD


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3])
def test_clip_block_norm_bounds_every_array_for_itself(scale):
    gradients = {**GRADIENTS, "norm": jax.tree.map(lambda g: scale * g, GRADIENTS["norm"])}
    updates = one_update(SGD(learning_rate=1.0, clip_block_norm=0.7), gradients=gradients)

    def check(update, gradient):
        norm = np.linalg.norm(gradient)
        np.testing.assert_allclose(update, -gradient * min(1.0, 0.7 / max(norm, 1e-9)), rtol=1e-5)

    jax.tree.map(check, updates, gradients)
