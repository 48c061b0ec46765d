"""What every denoiser reads beside x, its class, is no matter of weight decay."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import pytest

from deeplearn.models.denoiser import MLPDenoiser
from deeplearn.models.dit import DiT
from deeplearn.models.unet import UNet
from deeplearn.optimizers import NO_DECAY
from deeplearn.tree_paths import path_name

DENOISERS = {
    "mlp": (MLPDenoiser(width=8, depth=1, classes=3), (2, 3)),
    "unet": (UNet(channels=4, multipliers=(1,), attention=(), heads=1, classes=3), (2, 4, 4, 1)),
    "dit": (DiT(width=8, depth=1, heads=2, classes=3), (2, 4, 4, 1)),
}


@pytest.mark.parametrize("name", DENOISERS)
def test_only_kernels_decay(name, key):
    model, shape = DENOISERS[name]
    x, level, label = jnp.zeros(shape), jnp.zeros(2), jnp.zeros(2, jnp.int32)
    params = jax.eval_shape(model.init, key, x, level, label)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [path_name(path) for path, _ in leaves]
    assert any("class" in path for path in paths)
    assert {path.split("/")[-1] for path in paths if not re.search(NO_DECAY, path)} == {"kernel"}
