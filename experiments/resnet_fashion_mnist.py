"""A small residual network on Fashion-MNIST, sized for two CPU cores.

    ./launch.sh train --experiment=resnet_fashion_mnist

37 minutes on 2 CPU cores, with the allocator of launch.sh (12 % of the time). Test accuracy
94.06 % (one seed, 95 % bootstrap interval 93.6 to 94.5). With random crops and half the updates
(batches of 128, 13 epochs) it was 92.96 %.
"""

from deeplearn.data.image import RandomFlip
from deeplearn.data.split import Split
from deeplearn.experiment import Experiment
from deeplearn.models.resnet import ResNet
from deeplearn.optimizers import SGD
from deeplearn.schedules import Cosine
from deeplearn.tasks.classification import Classification
from experiments._fashion_mnist import standardized

TRAIN, TEST = standardized("train"), standardized("test")


def experiment() -> Experiment:
    return Experiment(
        name="resnet_fashion_mnist",
        task=Classification(ResNet(depth=8, width=32, outputs=10), smoothing=0.1),
        train=Split(TRAIN, 0.0, 0.95),
        evaluation={"validation": Split(TRAIN, 0.95, 1.0), "test": TEST},
        augment=(RandomFlip(),),
        optimizer=SGD(
            learning_rate=0.1,
            nesterov=True,
            schedule=Cosine(warmup=800),
            weight_decay=5e-4,
            ema_decay=0.998,
        ),
        steps=16000,
        batch_size=64,
        log_every=100,
        evaluate_every=4000,
        save_every=1000,
    )
