"""Fashion-MNIST as classifiers read it, and as generative models do."""

from deeplearn.data.tfds import Tfds


def standardized(split: str) -> Tfds:
    """Pixels less their mean over the training images, over their deviation."""
    return Tfds("fashion_mnist", split, mean=(0.286,), std=(0.353,))


def signed(split: str) -> Tfds:
    """Pixels in [−1, 1]."""
    return Tfds("fashion_mnist", split, mean=(0.5,), std=(0.5,))
