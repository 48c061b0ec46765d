"""ResNet (`ResNetForImageClassification`) of the ImageNet form, its stride at the 3×3 convolution.

Images are (B, C, Y, X) there and (B, Y, X, C) here.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import DataError, UsageError
from deeplearn.interop.config import Config
from deeplearn.interop.family import Family
from deeplearn.interop.table import Table, Tensor, expand, oihw, transposed
from deeplearn.models.resnet import ResNet
from deeplearn.types import Variables

DEPTHS = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
# How often a norm of theirs was trained; ours do not count.
COUNTER = ".num_batches_tracked"
CONVOLUTIONS = {"basic": ("first", "second"), "bottleneck": ("reduce", "middle", "expand")}


def table(model: ResNet) -> Table:
    """Their names and ours of one depth."""
    kind, blocks = DEPTHS[model.depth]
    names = _conv_norm("resnet.embedder.embedder", "stem")
    for stage, count in enumerate(blocks):
        for block in range(count):
            theirs = f"resnet.encoder.stages.{stage}.layers.{block}"
            ours = f"stage{stage + 1}_block{block + 1}"
            for index, name in enumerate(CONVOLUTIONS[kind]):
                names |= _conv_norm(f"{theirs}.layer.{index}", f"{ours}/{name}")
            # The first stage of basic blocks keeps the shape of the stem.
            if block == 0 and (stage > 0 or kind == "bottleneck"):
                names |= _conv_norm(f"{theirs}.shortcut", f"{ours}/projection")
    names["classifier.1.weight"] = ("params/output/kernel", transposed)
    names["classifier.1.bias"] = ("params/output/bias",)
    return names


def _conv_norm(theirs: str, ours: str) -> dict[str, tuple[Any, ...]]:
    return {
        f"{theirs}.convolution.weight": (f"params/{ours}/conv/kernel", oihw),
        f"{theirs}.normalization.weight": (f"params/{ours}/norm/scale",),
        f"{theirs}.normalization.bias": (f"params/{ours}/norm/bias",),
        f"{theirs}.normalization.running_mean": (f"batch_stats/{ours}/norm/mean",),
        f"{theirs}.normalization.running_var": (f"batch_stats/{ours}/norm/var",),
    }


def _recognizes(model: nn.Module) -> bool:
    return isinstance(model, ResNet)


def _model(config: Config) -> ResNet:
    kind, blocks = config.get("layer_type", "bottleneck"), config.get("depths", [3, 4, 6, 3])
    known = {depth: [name, list(counts)] for depth, (name, counts) in DEPTHS.items()}
    depth = next((depth for depth, form in known.items() if form == [kind, blocks]), None)
    if depth is None:
        raise DataError(
            f"{config.where}: depths={blocks!r} of layer_type={kind!r} is no ResNet of"
            f" {', '.join(map(str, DEPTHS))} layers"
        )
    width = config.size("embedding_size", 64)
    config.expect("hidden_sizes", _hidden_sizes(kind, width))
    config.expect("hidden_act", "relu")
    config.expect("downsample_in_first_stage", False)
    config.expect("downsample_in_bottleneck", False)
    # The stages that a detector would take its features from.
    config.skip("out_features", "out_indices", "stage_names", "num_channels")
    labels = config.get("id2label")
    outputs = len(labels) if labels else config.size("num_labels", 2)
    return ResNet(depth, outputs, width)


def _config(model: ResNet, variables: Variables) -> dict[str, Any]:
    if model.depth not in DEPTHS:
        raise UsageError(
            f"ResNet of depth={model.depth} has the CIFAR form, which Hugging Face has not; known:"
            f" {', '.join(map(str, DEPTHS))}"
        )
    kind, blocks = DEPTHS[model.depth]
    width = 64 if model.width is None else model.width
    names = {str(label): f"LABEL_{label}" for label in range(model.outputs)}
    return {
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        "num_channels": variables["params"]["stem"]["conv"]["kernel"].shape[2],
        "embedding_size": width,
        "hidden_sizes": _hidden_sizes(kind, width),
        "depths": list(blocks),
        "layer_type": kind,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
        "id2label": names,
        "label2id": {name: int(label) for label, name in names.items()},
        "dtype": "float32",
    }


def _hidden_sizes(kind: str, width: int) -> list[int]:
    expansion = 4 if kind == "bottleneck" else 1
    return [expansion * width * 2**stage for stage in range(4)]


def _image(config: Config) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, 32, 32, config.size("num_channels", 3)), jnp.float32)


def _tensors(model: ResNet) -> list[Tensor]:
    return expand(table(model), layers=0)


FAMILY = Family(
    model_type="resnet",
    recognizes=_recognizes,
    model=_model,
    config=_config,
    example=_image,
    tensors=_tensors,
    prefix="resnet.",
    passed_over=rf".*{COUNTER}",
    counters=lambda model: [
        name.replace(".running_mean", COUNTER)
        for name in table(model)
        if name.endswith(".running_mean")
    ],
)
