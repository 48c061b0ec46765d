"""A multilayer perceptron on Fashion-MNIST: what pixels without structure can give.

    ./launch.sh train --experiment=mlp_fashion_mnist

About 1 minute on 2 CPU cores. Test accuracy 90.15 ± 0.04 % (3 seeds).
"""

from deeplearn.data.split import Split
from deeplearn.experiment import Experiment
from deeplearn.models.mlp import MLP
from deeplearn.optimizers import AdamW
from deeplearn.schedules import Cosine
from deeplearn.tasks.classification import Classification
from experiments._fashion_mnist import standardized

TRAIN, TEST = standardized("train"), standardized("test")


def experiment() -> Experiment:
    return Experiment(
        name="mlp_fashion_mnist",
        task=Classification(MLP(hidden=(512, 512), outputs=10, dropout=0.3)),
        train=Split(TRAIN, 0.0, 0.95),
        evaluation={"validation": Split(TRAIN, 0.95, 1.0), "test": TEST},
        optimizer=AdamW(learning_rate=1e-3, schedule=Cosine(warmup=500), weight_decay=0.05),
        steps=9000,
        batch_size=128,
        log_every=100,
        evaluate_every=1500,
        save_every=1500,
    )
