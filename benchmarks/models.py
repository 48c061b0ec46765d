"""The same small networks here and in torch, from the same initial parameters."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import torch
from flax import linen as nn

from deeplearn.layers.convolution import Conv
from deeplearn.layers.dense import Dense
from deeplearn.layers.pooling import max_pool
from deeplearn.types import Array, PyTree


class LeNet(nn.Module):
    """LeNet-5 with rectifiers and maximum pooling: (B, 28, 28, 1) → (B, outputs)."""

    outputs: int = 10

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        x = max_pool(nn.relu(Conv(6, 5, padding=2, name="conv1")(x)))
        x = max_pool(nn.relu(Conv(16, 5, padding=0, name="conv2")(x)))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(Dense(120, name="dense1")(x))
        x = nn.relu(Dense(84, name="dense2")(x))
        return Dense(self.outputs, name="output")(x)


class ChannelsFirst(torch.nn.Module):
    """Flattens NCHW activations in the order of NHWC, so that the dense kernels can be shared."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def torch_lenet() -> torch.nn.Sequential:
    """LeNet for torch (NCHW)."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 5, padding=2),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 16, 5),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        ChannelsFirst(),
        torch.nn.Linear(400, 120),
        torch.nn.ReLU(),
        torch.nn.Linear(120, 84),
        torch.nn.ReLU(),
        torch.nn.Linear(84, 10),
    )


def torch_mlp(*widths: int) -> torch.nn.Sequential:
    """A multilayer perceptron with rectifiers."""
    layers: list[torch.nn.Module] = [torch.nn.Flatten()]
    for first, second in zip(widths, widths[1:], strict=False):
        layers += [torch.nn.Linear(first, second), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def share(params: PyTree, model: torch.nn.Module) -> None:
    """Copies our parameters, in the order of their layers, into a torch model."""
    ours = list(_layers(params))
    theirs = [layer for layer in model.modules() if hasattr(layer, "weight")]
    for (kernel, bias), layer in zip(ours, theirs, strict=True):
        axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
        assign(layer.weight, kernel.transpose(axes))
        assign(layer.bias, bias)


def assign(target: torch.Tensor, value: np.ndarray) -> None:
    """Copies a parameter of ours into one of torch, of the same shape."""
    assert target.shape == value.shape
    with torch.no_grad():
        target.copy_(torch.from_numpy(np.array(value)))


ORDER = ("conv1", "conv2", "input", "dense1", "dense2", "output")


def _layers(params: PyTree) -> Any:
    for name in sorted(params, key=ORDER.index):
        yield jax.device_get((params[name]["kernel"], params[name]["bias"]))
