"""Class-conditional diffusion of Fashion-MNIST by a small U-Net, EDM.

    ./launch.sh train --experiment=diffusion_fashion_mnist

77 minutes on 2 CPU cores that other work shared, some 50 where nothing else runs (one seed). The
loss on the test set is 0.177, and the error of x0 0.0211 a pixel, squared. Fréchet distance of
2,000 samples to the test set 0.114, 16 times that of 5,000 training images, in the features of
resnet_fashion_mnist (9,000 steps, state a72d2b40cd2b). AdamW on as many images (batches of 64,
learning rate 1e-3, 4,000 steps) left a loss of 0.185 and, of 5,000 samples, a distance of 0.188;
benchmarks/results/generation_diffusion_fashion_mnist_adamw.json tells of those in full.
"""

from deeplearn.experiment import Experiment
from deeplearn.processes import VarianceExploding
from experiments._fashion_denoising import DATA_SCALE, fashion_denoising


def experiment() -> Experiment:
    # Levels as in EDM2 (Karras et al. 2024, arXiv:2312.02696). With EDM's own, images noised to
    # σ = 0.1 and denoised again were as good as the data, those from σ = 1 were not.
    process = VarianceExploding(data_scale=DATA_SCALE, log_mean=-0.4, log_std=1.0)
    return fashion_denoising("diffusion_fashion_mnist", process, "v")
