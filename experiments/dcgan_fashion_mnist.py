"""DCGAN on Fashion-MNIST: the convolutional pair with BatchNorm, without labels.

    ./launch.sh train --experiment=dcgan_fashion_mnist

It has not been run in full yet. Optimizer and batch size of Radford, Metz & Chintala, 2016
(arXiv:1511.06434). Like there no average of the generator is kept: BatchNorm's statistics would
be those of the parameters themselves.
"""

from deeplearn.experiment import Experiment
from deeplearn.models.dcgan import DCGANDiscriminator, DCGANGenerator
from deeplearn.optimizers import Adam
from deeplearn.players import Players
from deeplearn.tasks.adversarial import Adversarial
from experiments._fashion_mnist import signed

TRAIN, TEST = signed("train"), signed("test")


def experiment() -> Experiment:
    player = Adam(learning_rate=2e-4, b1=0.5)
    return Experiment(
        name="dcgan_fashion_mnist",
        task=Adversarial(
            DCGANGenerator(image=(28, 28, 1), channels=(128, 64)),
            DCGANDiscriminator(channels=(64, 128)),
            latent=100,
        ),
        train=TRAIN,
        evaluation={"test": TEST},
        optimizer=Players(player, player),
        steps=12_000,
        batch_size=128,
        log_every=100,
        evaluate_every=2000,
        save_every=2000,
    )
