"""Diffusion of emoji, 32 × 32 in colour and without labels: a U-Net, EDM.

    ./launch.sh train --experiment=diffusion_emoji

Not run in full.
"""

from deeplearn.data.emoji import Emoji
from deeplearn.experiment import Experiment
from deeplearn.models.unet import UNet
from deeplearn.optimizers import AdamW
from deeplearn.processes import VarianceExploding
from deeplearn.schedules import Cosine
from deeplearn.tasks.denoising import Denoising


def experiment() -> Experiment:
    return Experiment(
        name="diffusion_emoji",
        task=Denoising(
            UNet(channels=32, multipliers=(1, 2, 2), attention=(2,)),
            # The root of the mean square of the pixels, most of which are white.
            VarianceExploding(data_scale=0.82),
        ),
        train=Emoji("train"),
        evaluation={"test": Emoji("test")},
        optimizer=AdamW(
            learning_rate=1e-3, schedule=Cosine(warmup=100), clip_norm=1.0, ema_decay=0.995
        ),
        steps=6000,
        batch_size=32,
        evaluation_batch_size=64,
        log_every=50,
        evaluate_every=1000,
        save_every=500,
    )
