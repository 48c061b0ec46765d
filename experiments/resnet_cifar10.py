"""ResNet-20 on CIFAR-10, the recipe of the paper: 64,000 steps, flips and crops.

    ./launch.sh train --experiment=resnet_cifar10

Differences from He et al. 2015, section 4.2, beside those of the model: a linear warm-up of 400
steps (there only depth 110 has one, at a constant 0.01); images are standardized by channel, where
the paper subtracts the mean of each pixel; BatchNorm sees 128 rows, there 64 on each of two GPUs.

Not run in full: tested on mock data, shrunk.
"""

from deeplearn.data.image import RandomCrop, RandomFlip
from deeplearn.data.tfds import Tfds
from deeplearn.experiment import Experiment
from deeplearn.models.resnet import ResNet
from deeplearn.optimizers import SGD
from deeplearn.schedules import Step
from deeplearn.tasks.classification import Classification

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)


def experiment() -> Experiment:
    return Experiment(
        name="resnet_cifar10",
        task=Classification(ResNet(depth=20, outputs=10)),
        train=Tfds("cifar10", "train", mean=MEAN, std=STD),
        evaluation={"test": Tfds("cifar10", "test", mean=MEAN, std=STD)},
        augment=(RandomCrop(4), RandomFlip()),
        # He et al. 2015, section 4.2: divided by 10 at 32,000 and 48,000 steps.
        optimizer=SGD(
            learning_rate=0.1,
            schedule=Step(warmup=400, boundaries=(32_000, 48_000)),
            weight_decay=1e-4,
        ),
        steps=64_000,
        batch_size=128,
        log_every=100,
        evaluate_every=2000,
        save_every=2000,
    )
