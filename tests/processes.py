"""The forward processes that every test of diffusion holds for."""

from __future__ import annotations

import pytest

from deeplearn.processes import DDPM, Cosine, RectifiedFlow, VarianceExploding

PROCESSES = {
    "ddpm": DDPM(),
    "cosine": Cosine(),
    "exploding": VarianceExploding(),
    "flow": RectifiedFlow(),
}
every_process = pytest.mark.parametrize("name", PROCESSES)
