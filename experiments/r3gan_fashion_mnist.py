"""R3GAN on Fashion-MNIST by class: a relativistic pair without normalization, R1 and R2.

    ./launch.sh train --experiment=r3gan_fashion_mnist

A negative result (one seed, 53 minutes of 2 CPU cores that other work shared in part): the Fréchet
distance of 5,000 samples to the test set is 0.48, 66 times that of training images, in the features
of resnet_fashion_mnist (9,000 steps, state a72d2b40cd2b); 10 times was the goal. Samples are of the
class that was asked for (91 %, 71 % of the shirts) and look like the data (precision 0.90), but not
like all of them (recall 0.24). At the end both losses are ln 2 to 0.03: the discriminator hardly
tells them from the data. 1,500 steps (`steps=1500`, `optimizer.ema_decay=0.996`) leave 3.46
(benchmarks/results/generation_r3gan_fashion_mnist_1500.json, classes at random): at that slope
the goal would take some 23,000 steps, more than three hours of 2 cores.

With one block a stage in the discriminator, penalties of 0.1 and a learning rate that stays, each
class had few looks: distance 0.81, recall 0.006, and the weights that are not averaged drew no
better. After 1,000 steps penalties of 1 were ahead of 0.1 (2.7 and 3.2, not averaged) and of 5
(5.1). After 2,000 steps samples were blots of squares with blocks of half as many channels, no
convolution behind a doubling, and a learning rate of 2e-4.

Huang et al., 2024 (arXiv:2501.05441): Adam without momentum, the two penalties of one weight, and
an averaged generator to draw with. The penalties stay as they are here; there they fall over the
first part of the run.
"""

from deeplearn.experiment import Experiment
from deeplearn.models.r3gan import R3GANDiscriminator, R3GANGenerator
from deeplearn.optimizers import Adam
from deeplearn.players import Players
from deeplearn.schedules import Cosine
from deeplearn.tasks.adversarial import Adversarial
from experiments._fashion_mnist import signed

TRAIN, TEST = signed("train"), signed("test")


def experiment() -> Experiment:
    player = Adam(learning_rate=5e-4, b1=0.0, b2=0.99, schedule=Cosine(final=0.1))
    return Experiment(
        name="r3gan_fashion_mnist",
        task=Adversarial(
            R3GANGenerator(image=(28, 28, 1), channels=(128, 64, 32), classes=10),
            R3GANDiscriminator(channels=(32, 64, 128), blocks=2, classes=10),
            latent=64,
            objective="relativistic",
            conditional=True,
            r1=1.0,
            r2=1.0,
        ),
        train=TRAIN,
        evaluation={"test": TEST},
        optimizer=Players(player, player, ema_decay=0.999),
        steps=6000,
        batch_size=64,
        log_every=50,
        evaluate_every=1000,
        save_every=500,
    )
