"""Diffusion of clips of two real digits that bounce: a U-Net with attention over frames.

    ./launch.sh train --experiment=video_moving_digits

The digits are scikit-learn's, 8×8 and enlarged to 16×16, which need no download;
`data/moving_digits.py` says how to take MNIST's instead.

815,137 parameters. It has not been run in full. In a trial of 600 steps, with a schedule of that
length and an average over 50 steps, 14 minutes on one of two shared cores, the loss fell from 0.91
at step 20 to 0.09 on digits never seen; the same weights without attention over frames give 0.15.
Strokes moved from frame to frame as in the data (correlation of neighbours 0.80 in 8 clips, in the
data 0.82, between clips 0.13), but did not form digits yet. Twice as fast and with half the rate of
learning, 400 steps gave frames that hardly hung together (0.41; in such data 0.63, between clips
0.30).
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
            learning_rate=2e-3, schedule=Cosine(warmup=100), clip_norm=1.0, ema_decay=0.995
        ),
        steps=4000,
        batch_size=8,
        evaluation_batch_size=32,
        log_every=50,
        evaluate_every=2000,
        save_every=500,
    )
