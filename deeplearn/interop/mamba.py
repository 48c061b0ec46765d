"""Mamba and Mamba-2 (`MambaForCausalLM`, `Mamba2ForCausalLM`)."""

from __future__ import annotations

import math
from typing import Any

from flax import linen as nn

from deeplearn.interop.config import Config
from deeplearn.interop.family import Family, tokens
from deeplearn.interop.table import Table, Tensor, depthwise, expand, transposed
from deeplearn.layers.mamba import Mamba, Mamba2
from deeplearn.models.mamba import Mamba2Sizes, MambaSizes, mamba
from deeplearn.models.sequence import SequenceModel
from deeplearn.types import Variables

MIXER: Table = {
    "in_proj.weight": ("in_proj/kernel", transposed),
    "conv1d.weight": ("conv/kernel", depthwise),
    "conv1d.bias": ("conv/bias",),
    "A_log": ("A_log",),
    "D": ("D",),
    "out_proj.weight": ("out_proj/kernel", transposed),
}
MIXER1: Table = {
    **MIXER,
    "x_proj.weight": ("x_proj/kernel", transposed),
    "dt_proj.weight": ("dt_proj/kernel", transposed),
    "dt_proj.bias": ("dt_bias",),
}
MIXER2: Table = {**MIXER, "dt_bias": ("dt_bias",), "norm.weight": ("norm/scale",)}
# What only makes fresh parameters, chooses among equal algorithms, or follows from other values.
SKIPPED = (
    "chunk_size",
    "d_inner",
    "d_model",
    "fused_add_norm",
    "intermediate_size",
    "n_layer",
    "pad_vocab_size_multiple",
    "rescale_prenorm_residual",
    "residual_in_fp32",
    "time_step_floor",
    "time_step_init_scheme",
    "time_step_max",
    "time_step_min",
    "time_step_scale",
    "use_associative_scan",
    "use_mambapy",
)


def _tensors(model: SequenceModel) -> list[Tensor]:
    mixer = MIXER1 if isinstance(model.pattern[0].mixer, Mamba) else MIXER2
    block = "params/layers/{layer}/blocks_0"
    table: dict[str, tuple[Any, ...]] = {
        "backbone.embeddings.weight": ("params/embedding/embedding",),
        "backbone.layers.{layer}.norm.weight": (f"{block}/mixer_norm/scale",),
        **{
            f"backbone.layers.{{layer}}.mixer.{name}": (f"{block}/mixer/{path}", *views)
            for name, (path, *views) in mixer.items()
        },
        "backbone.norm_f.weight": ("params/norm/scale",),
    }
    if not model.tied:
        table["lm_head.weight"] = ("params/output", transposed)
    return expand(table, model.repeats, model.scan)


def _recognizes(model: nn.Module, kind: type[nn.Module]) -> bool:
    return isinstance(model, SequenceModel) and isinstance(model.pattern[0].mixer, kind)


def _expect_of_both(config: Config) -> None:
    config.expect("hidden_act", "silu")
    config.expect("layer_norm_epsilon", 1e-5)
    config.expect("use_bias", False)
    config.expect("use_conv_bias", True)
    config.expect("rms_norm", True)
    config.skip(*SKIPPED)


def _with_mixer(model: SequenceModel, tied: bool, **fields: Any) -> SequenceModel:
    block = model.pattern[0]
    return model.clone(pattern=(block.clone(mixer=block.mixer.clone(**fields)),), tied=tied)


def _model1(config: Config) -> SequenceModel:
    width = config.size("hidden_size", 768)
    _expect_of_both(config)
    sizes = MambaSizes(
        vocabulary=config.size("vocab_size", 50280),
        width=width,
        depth=config.size("num_hidden_layers", 32),
        state_size=config.size("state_size", 16),
    )
    automatic = config.get("time_step_rank", "auto") == "auto"
    return _with_mixer(
        mamba(sizes),
        tied=config.flag("tie_word_embeddings", True),
        expansion=config.size("expand", 2),
        convolution=config.size("conv_kernel", 4),
        rank=math.ceil(width / 16) if automatic else config.size("time_step_rank"),
    )


def _model2(config: Config) -> SequenceModel:
    width, expansion = config.size("hidden_size", 4096), config.size("expand", 2)
    head_width = config.size("head_dim", 64)
    _expect_of_both(config)
    config.expect("num_heads", expansion * width // head_width)
    # Newer versions write infinity as an object, since JSON has no word for it.
    config.expect("time_step_limit", [0.0, math.inf], [0.0, {"__float__": "Infinity"}])
    # Unused: this form has no bottleneck, and its norm comes behind the gate whatever this says.
    config.skip("time_step_rank", "norm_before_gate")
    sizes = Mamba2Sizes(
        vocabulary=config.size("vocab_size", 32768),
        width=width,
        depth=config.size("num_hidden_layers", 64),
        state_size=config.size("state_size", 128),
        head_width=head_width,
        groups=config.size("n_groups", 8),
    )
    return _with_mixer(
        mamba(sizes),
        tied=config.flag("tie_word_embeddings", False),
        expansion=expansion,
        convolution=config.size("conv_kernel", 4),
    )


def _config_of_both(model: SequenceModel, mixer: Any) -> dict[str, Any]:
    return {
        "vocab_size": model.vocabulary,
        "hidden_size": model.width,
        "num_hidden_layers": model.repeats,
        "state_size": mixer.state_size,
        "expand": mixer.expansion,
        "conv_kernel": mixer.convolution,
        "hidden_act": "silu",
        "layer_norm_epsilon": 1e-5,
        "use_bias": False,
        "use_conv_bias": True,
        "tie_word_embeddings": model.tied,
        "dtype": "float32",
    }


def _config1(model: SequenceModel, variables: Variables) -> dict[str, Any]:
    mixer: Any = model.pattern[0].mixer
    rank = math.ceil(model.width / 16) if mixer.rank is None else mixer.rank
    return {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        **_config_of_both(model, mixer),
        "time_step_rank": rank,
    }


def _config2(model: SequenceModel, variables: Variables) -> dict[str, Any]:
    mixer: Any = model.pattern[0].mixer
    return {
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        **_config_of_both(model, mixer),
        "head_dim": mixer.head_width,
        "num_heads": mixer.expansion * model.width // mixer.head_width,
        "n_groups": mixer.groups,
    }


def _family(model_type: str, kind: type[nn.Module], model: Any, config: Any) -> Family:
    return Family(
        model_type=model_type,
        recognizes=lambda candidate: _recognizes(candidate, kind),
        model=model,
        config=config,
        example=tokens,
        tensors=_tensors,
        prefix="backbone.",
        renamed={r"^(backbone\.)?embedding\.": r"\1embeddings."},
        tied={"lm_head.weight": "backbone.embeddings.weight"},
    )


MAMBA = _family("mamba", Mamba, _model1, _config1)
MAMBA2 = _family("mamba2", Mamba2, _model2, _config2)
