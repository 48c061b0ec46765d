"""DiT-B/4 on ImageNet at 64×64 pixels in bfloat16: class-conditional rectified flow.

    ./launch.sh train --experiment=dit_imagenet

It works on pixels; the paper's models work on the latents of an autoencoder. Not run in full:
tested on mock data, shrunk.
"""

from deeplearn.data.image import RandomFlip
from deeplearn.data.stream import TfdsImages
from deeplearn.experiment import Experiment
from deeplearn.models.dit import preset
from deeplearn.optimizers import AdamW
from deeplearn.processes import RectifiedFlow
from deeplearn.tasks.denoising import Denoising

SIZE, HALF = 64, (0.5, 0.5, 0.5)
EPOCH = 1_281_167 // 256
# Squares: of an image of 4:3 none is larger than 3/4.
TRAIN = TfdsImages(
    "imagenet2012", "train", SIZE, mean=HALF, std=HALF, area=(0.6, 0.75), aspect=(1.0, 1.0)
)
VALIDATION = TfdsImages("imagenet2012", "validation", SIZE, mean=HALF, std=HALF, center=1.0)


def experiment() -> Experiment:
    return Experiment(
        name="dit_imagenet",
        # Pixels in [−1, 1] have a standard deviation of about 0.5.
        task=Denoising(
            preset("B/4", classes=1000, dtype="bfloat16"),
            RectifiedFlow(data_scale=0.5),
            prediction="velocity",
            label_dropout=0.1,
        ),
        train=TRAIN,
        evaluation={"validation": VALIDATION},
        augment=(RandomFlip(),),
        # Peebles & Xie 2023, section 4.
        optimizer=AdamW(learning_rate=1e-4, weight_decay=0.0, ema_decay=0.9999),
        steps=80 * EPOCH,
        batch_size=256,
        log_every=100,
        evaluate_every=EPOCH,
        save_every=EPOCH,
    )
