"""Diffusion of clips of two real digits that bounce: a U-Net with attention over frames.

    ./launch.sh train --experiment=video_moving_digits

Not run in full.
"""

from deeplearn.data.bundled import Bundled
from deeplearn.data.moving_digits import MovingDigits
from deeplearn.experiment import Experiment
from deeplearn.models.unet import UNet
from deeplearn.optimizers import AdamW
from deeplearn.processes import VarianceExploding
from deeplearn.schedules import Cosine
from deeplearn.tasks.denoising import Denoising


def experiment() -> Experiment:
    return Experiment(
        name="video_moving_digits",
        task=Denoising(
            UNet(channels=16, multipliers=(1, 2, 4), attention=(2,), temporal_heads=2),
            # The root of the mean square of the pixels, most of which are black.
            VarianceExploding(data_scale=0.91),
        ),
        train=MovingDigits(size=1_000_000),
        # Digits that training never sees.
        evaluation={"test": MovingDigits(Bundled("digits", "test"), size=256, seed=1)},
        optimizer=AdamW(
            learning_rate=1e-3, schedule=Cosine(warmup=100), clip_norm=1.0, ema_decay=0.995
        ),
        steps=6000,
        batch_size=8,
        evaluation_batch_size=32,
        log_every=50,
        evaluate_every=1000,
        save_every=500,
    )
