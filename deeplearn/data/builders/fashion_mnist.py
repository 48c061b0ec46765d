"""Fashion-MNIST: 70,000 grey images of clothing, 28×28, in 10 classes; MIT licence.

Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
algorithms", 2017.
"""

from __future__ import annotations

import tensorflow_datasets as tfds

from deeplearn.data.builders.idx import IdxBuilder

with tfds.core.registered.skip_registration():

    class Builder(IdxBuilder):
        """Fashion-MNIST: 60,000 images to train and 10,000 to test."""

        name = "fashion_mnist"
        _checksums_path = tfds.core.tfds_path("url_checksums/fashion_mnist.txt")
        url = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
        homepage = "https://github.com/zalandoresearch/fashion-mnist"
        classes = (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        )
        sha256 = {
            "train-images-idx3-ubyte": (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
            ),
            "train-labels-idx1-ubyte": (
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
            ),
            "t10k-images-idx3-ubyte": (
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
            ),
            "t10k-labels-idx1-ubyte": (
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
            ),
        }
        # What the Debian package `dataset-fashion-mnist` installs.
        directories = ("/usr/share/datasets/fashion-mnist",)
        command = "sudo apt-get install dataset-fashion-mnist"
