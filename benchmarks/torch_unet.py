"""The U-Net of ours in torch, from the same parameters.

Torch pads a convolution of stride 2 alike on both sides, ours at the end; so this one works on
images that are turned by half a turn, with kernels turned as well, which is the same mathematics
at no cost to either.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.models import assign
from deeplearn.models.unet import UNet
from deeplearn.types import PyTree

IMAGE = (28, 28, 1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, channels, max(1, channels // 4)), channels)


def _conv(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride, padding=1)


class PeerBlock(nn.Module):
    """The residual block of ours, its layers of the same names."""

    def __init__(self, before: int, after: int, embedding: int):
        super().__init__()
        self.norm_1, self.conv_1 = _norm(before), _conv(before, after)
        self.modulation = nn.Linear(embedding, 2 * after)
        self.norm_2, self.conv_2 = _norm(after), _conv(after, after)
        if before != after:
            self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        h = self.conv_1(functional.silu(self.norm_1(x)))
        scale, shift = self.modulation(e)[:, :, None, None].chunk(2, dim=1)
        h = self.conv_2(functional.silu((1 + scale) * self.norm_2(h) + shift))
        return h + (self.shortcut(x) if hasattr(self, "shortcut") else x)


class PeerAttention(nn.Module):
    """x + attention of every place to all places."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self._heads = heads
        self.norm = _norm(channels)
        self.qkv, self.output = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.output(y).transpose(1, 2).unflatten(2, x.shape[2:])


class PeerUNet(nn.Module):
    """The U-Net `sizes` in torch: images (B, C, Y, X), levels (B,), labels (B,) → prediction."""

    def __init__(self, sizes: UNet, params: PyTree):
        super().__init__()
        self._sizes = sizes
        width, last = 4 * sizes.channels, len(sizes.multipliers) - 1
        features = [sizes.channels * multiplier for multiplier in sizes.multipliers]
        self.level_1, self.level_2 = nn.Linear(sizes.channels, width), nn.Linear(width, width)
        self.class_embedding = nn.Parameter(torch.empty(sizes.classes, width))
        periods = 2 * np.pi * np.geomspace(1 / 8, 32, sizes.channels // 2)
        self._frequencies = torch.from_numpy(periods.astype(np.float32))

        def add(name: str, before: int, level: int, attends: bool) -> int:
            after = features[level]
            self.add_module(f"{name}_block", PeerBlock(before, after, width))
            if attends:
                self.add_module(f"{name}_attention", PeerAttention(after, sizes.heads))
            return after

        self.input = _conv(IMAGE[-1], sizes.channels)
        h, skips = sizes.channels, [sizes.channels]
        for level, size in enumerate(features):
            for number in range(sizes.blocks):
                h = add(f"down_{level}_{number}", h, level, level in sizes.attention)
                skips.append(h)
            if level < last:
                self.add_module(f"halve_{level}", _conv(h, size, stride=2))
                skips.append(h)
        add("middle_0", h, last, False)
        self.middle_attention = PeerAttention(h, sizes.heads)
        add("middle_1", h, last, False)
        for level, size in reversed(list(enumerate(features))):
            for number in range(sizes.blocks + 1):
                name, before = f"up_{level}_{number}", h + skips.pop()
                h = add(name, before, level, level in sizes.attention)
            if level > 0:
                self.add_module(f"double_{level}", _conv(h, size))
        self.norm, self.output = _norm(h), _conv(h, IMAGE[-1])
        copy_unet(params, self)

    def forward(self, x: torch.Tensor, level: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        sizes, parts = self._sizes, dict(self.named_children())
        e = functional.silu(self._embedding(level, label))

        def apply(name: str, h: torch.Tensor) -> torch.Tensor:
            h = parts[f"{name}_block"](h, e)
            attention = parts.get(f"{name}_attention")
            return h if attention is None else attention(h)

        h = self.input(x)
        skips = [h]
        for depth in range(len(sizes.multipliers)):
            for number in range(sizes.blocks):
                h = apply(f"down_{depth}_{number}", h)
                skips.append(h)
            if f"halve_{depth}" in parts:
                h = parts[f"halve_{depth}"](h)
                skips.append(h)
        h = apply("middle_1", self.middle_attention(apply("middle_0", h)))
        for depth in reversed(range(len(sizes.multipliers))):
            for number in range(sizes.blocks + 1):
                h = apply(f"up_{depth}_{number}", torch.cat([h, skips.pop()], dim=1))
            if f"double_{depth}" in parts:
                h = parts[f"double_{depth}"](functional.interpolate(h, scale_factor=2))
        return self.output(functional.silu(self.norm(h)))

    def _embedding(self, level: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        angles = level[:, None] * self._frequencies
        features = torch.cat([angles.sin(), angles.cos()], dim=1)
        e = self.level_2(functional.silu(self.level_1(features)))
        return e + self.class_embedding[label.clamp(min=0)] * (label >= 0)[:, None]


def copy_unet(params: PyTree, module: nn.Module) -> None:
    """Our parameters into the layers of the same names, kernels turned by half a turn."""
    for name, target in module.named_parameters(recurse=False):
        ours = params[{"weight": "scale" if "scale" in params else "kernel"}.get(name, name)]
        if ours.ndim == 4:
            ours = ours[::-1, ::-1].transpose(3, 2, 0, 1)
        elif name == "weight" and ours.ndim == 2:
            ours = ours.T
        assign(target, ours)
    for name, child in module.named_children():
        # Ours has the projections of the attention a level below its norm.
        inner = params["attention"] if name not in params else params
        copy_unet(inner[name], child)


def turned(images: np.ndarray) -> torch.Tensor:
    """Images (B, Y, X, C) of ours as the peer has them: turned by half a turn, channels last."""
    x = torch.from_numpy(images[:, ::-1, ::-1].transpose(0, 3, 1, 2).copy())
    return x.contiguous(memory_format=torch.channels_last)
