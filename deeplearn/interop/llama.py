"""Llama (`LlamaForCausalLM`), and Mistral (`MistralForCausalLM`), which has a sliding window.

A Mistral without a window, as from version 0.2 on, is Llama's form and is written as one. Llama's
rotary frequencies are scaled since version 3.1. Other kinds of `rope_scaling` than "llama3" are
refused.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import linen as nn

from deeplearn.errors import DataError
from deeplearn.interop.config import Config
from deeplearn.interop.family import Family, tokens
from deeplearn.interop.table import Table, Tensor, columns, expand, transposed
from deeplearn.layers.attention import Attention
from deeplearn.layers.feed_forward import GatedFeedForward
from deeplearn.layers.rotary import Scaling
from deeplearn.models.sequence import SequenceModel
from deeplearn.models.transformer import Llama, transformer
from deeplearn.types import Variables


def table(model: SequenceModel) -> Table:
    """Their names and ours; q, k and v are parts of one kernel, and so are gate and value."""
    block: Any = model.pattern[0]
    mixer, features = block.mixer, block.feed_forward.features
    q = mixer.heads * mixer.head_width
    kv = (mixer.kv_heads or mixer.heads) * mixer.head_width
    layer, ours = "model.layers.{layer}", "params/layers/{layer}/blocks_0"
    qkv, both = f"{ours}/mixer/qkv/kernel", f"{ours}/feed_forward/input/kernel"
    names: dict[str, tuple[Any, ...]] = {
        "model.embed_tokens.weight": ("params/embedding/embedding",),
        f"{layer}.input_layernorm.weight": (f"{ours}/mixer_norm/scale",),
        f"{layer}.self_attn.q_proj.weight": (qkv, columns(0, q), transposed),
        f"{layer}.self_attn.k_proj.weight": (qkv, columns(q, kv), transposed),
        f"{layer}.self_attn.v_proj.weight": (qkv, columns(q + kv, kv), transposed),
        f"{layer}.self_attn.o_proj.weight": (f"{ours}/mixer/output/kernel", transposed),
        f"{layer}.post_attention_layernorm.weight": (f"{ours}/feed_forward_norm/scale",),
        f"{layer}.mlp.gate_proj.weight": (both, columns(0, features), transposed),
        f"{layer}.mlp.up_proj.weight": (both, columns(features, features), transposed),
        f"{layer}.mlp.down_proj.weight": (f"{ours}/feed_forward/output/kernel", transposed),
        "model.norm.weight": ("params/norm/scale",),
    }
    if not model.tied:
        names["lm_head.weight"] = ("params/output", transposed)
    return names


def _recognizes(model: nn.Module, windowed: bool) -> bool:
    return (
        isinstance(model, SequenceModel)
        and isinstance(model.pattern[0].mixer, Attention)
        and (model.pattern[0].mixer.window is not None) == windowed
        and isinstance(model.pattern[0].feed_forward, GatedFeedForward)
        and not model.learned_positions
    )


def _llama(config: Config) -> SequenceModel:
    config.expect("attention_bias", False)
    config.expect("mlp_bias", False)
    config.skip("pretraining_tp")
    return transformer(_sizes(config, config.size("num_attention_heads"), 2048))


def _mistral(config: Config) -> SequenceModel:
    sizes = _sizes(config, 8, 131_072)
    if config.get("sliding_window", 4096) is None:
        return transformer(sizes)
    return transformer(dataclasses.replace(sizes, window=config.size("sliding_window", 4096)))


def _sizes(config: Config, default_kv_heads: int, default_length: int) -> Llama:
    width = config.size("hidden_size")
    heads = config.size("num_attention_heads")
    rotary, scaling = _rotary(config)
    head_width = config.get("head_dim")
    config.expect("hidden_act", "silu")
    config.skip("attention_dropout")
    return Llama(
        vocabulary=config.size("vocab_size"),
        width=width,
        depth=config.size("num_hidden_layers"),
        heads=heads,
        kv_heads=config.size("num_key_value_heads", default_kv_heads),
        features=config.size("intermediate_size"),
        rotary=rotary,
        rotary_scaling=scaling,
        tied=config.flag("tie_word_embeddings", False),
        head_width=width // heads if head_width is None else config.size("head_dim"),
        epsilon=config.number("rms_norm_eps", 1e-6),
        max_length=config.size("max_position_embeddings", default_length),
    )


def _rotary(config: Config) -> tuple[float, Scaling | None]:
    """Base and scaling of the rotary embedding.

    They are `rope_theta` and `rope_scaling`, since version 5 of the library `rope_parameters`.
    """
    base, scaling = config.number("rope_theta", 10_000.0), None
    for name in ("rope_scaling", "rope_parameters"):
        given = config.get(name)
        if given is None:
            continue
        kind = isinstance(given, dict) and given.get("rope_type", given.get("type"))
        if kind not in ("default", "llama3"):
            raise DataError(
                f"{config.where}: {name}={given!r} cannot be expressed; our rotary positions are"
                " plain or scaled as 'llama3'"
            )
        values = Config(given, f"{config.where}: {name}")
        values.skip("rope_type", "type")
        base = values.number("rope_theta", base)
        scaling = _scaling(values) if kind == "llama3" else None
        values.finish()
    return base, scaling


def _scaling(values: Config) -> Scaling:
    factor, low, high = (
        values.number(name) for name in ("factor", "low_freq_factor", "high_freq_factor")
    )
    if high <= low:
        raise DataError(
            f"{values.where}: high_freq_factor={high} must be above low_freq_factor={low}"
        )
    return factor, low, high, values.size("original_max_position_embeddings")


def _config_of_llama(model: SequenceModel, variables: Variables) -> dict[str, Any]:
    head = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    return {**head, **_config_of_both(model)}


def _config_of_mistral(model: SequenceModel, variables: Variables) -> dict[str, Any]:
    head = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    window = model.pattern[0].mixer.window
    return {**head, **_config_of_both(model), "sliding_window": window}


def _config_of_both(model: SequenceModel) -> dict[str, Any]:
    block: Any = model.pattern[0]
    mixer = block.mixer
    values = {
        "vocab_size": model.vocabulary,
        "hidden_size": model.width,
        "num_hidden_layers": model.repeats,
        "num_attention_heads": mixer.heads,
        "num_key_value_heads": mixer.kv_heads or mixer.heads,
        "head_dim": mixer.head_width,
        "intermediate_size": block.feed_forward.features,
        "rope_theta": mixer.rotary,
        "rms_norm_eps": model.epsilon,
        "max_position_embeddings": model.max_length,
        "tie_word_embeddings": model.tied,
        "hidden_act": "silu",
        "dtype": "float32",
    }
    if mixer.rotary_scaling is not None:
        factor, low, high, length = mixer.rotary_scaling
        values["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": length,
        }
    return values


def _tensors(model: SequenceModel) -> list[Tensor]:
    return expand(table(model), model.repeats, model.scan)


def _family(model_type: str, windowed: bool, model: Any, config: Any) -> Family:
    return Family(
        model_type=model_type,
        recognizes=lambda candidate: _recognizes(candidate, windowed),
        model=model,
        config=config,
        example=tokens,
        tensors=_tensors,
        prefix="model.",
        passed_over=r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
        tied={"lm_head.weight": "model.embed_tokens.weight"},
    )


LLAMA = _family("llama", False, _llama, _config_of_llama)
MISTRAL = _family("mistral", True, _mistral, _config_of_mistral)
