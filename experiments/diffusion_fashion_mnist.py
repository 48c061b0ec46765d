"""Class-conditional diffusion of Fashion-MNIST by a small U-Net, EDM.

    ./launch.sh train --experiment=diffusion_fashion_mnist

It has not been run in full yet.
"""

from deeplearn.experiment import Experiment
from deeplearn.processes import VarianceExploding
from experiments._fashion_denoising import DATA_SCALE, fashion_denoising


def experiment() -> Experiment:
    process = VarianceExploding(data_scale=DATA_SCALE)
    return fashion_denoising("diffusion_fashion_mnist", process, "v")
