"""Class-conditional rectified flow on Fashion-MNIST, by a small U-Net.

    ./launch.sh train --experiment=flow_fashion_mnist

It has not been run in full yet.
"""

from deeplearn.experiment import Experiment
from deeplearn.processes import RectifiedFlow
from experiments._fashion_denoising import DATA_SCALE, fashion_denoising


def experiment() -> Experiment:
    process = RectifiedFlow(data_scale=DATA_SCALE)
    return fashion_denoising("flow_fashion_mnist", process, "velocity")
