"""What diffusion and flow on Fashion-MNIST share: network, data, optimizer, images seen."""

from deeplearn.experiment import Experiment
from deeplearn.models.unet import UNet
from deeplearn.optimizers import Muon
from deeplearn.processes import Process
from deeplearn.schedules import Cosine
from deeplearn.tasks.denoising import Denoising
from experiments._fashion_mnist import signed

TRAIN, TEST = signed("train"), signed("test")
DATA_SCALE = 0.71  # the deviation of pixels in [−1, 1]


def fashion_denoising(name: str, process: Process, prediction: str) -> Experiment:
    """256,000 images, 4.3 passes of 60,000, each with its class or one time in ten without."""
    return Experiment(
        name=name,
        task=Denoising(
            UNet(channels=32, multipliers=(1, 2, 2), attention=(2,), classes=10),
            process,
            prediction,
            label_dropout=0.1,
        ),
        train=TRAIN,
        evaluation={"test": TEST},
        optimizer=Muon(
            learning_rate=5e-3,
            schedule=Cosine(warmup=200),
            clip_norm=1.0,
            ema_decay=0.999,
        ),
        steps=8000,
        batch_size=32,
        log_every=50,
        evaluate_every=2000,
        save_every=500,
    )
