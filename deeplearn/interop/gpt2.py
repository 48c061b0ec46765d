"""GPT-2 (`GPT2LMHeadModel`); its kernels are (in, out) as ours are, query, key and value fused."""

from __future__ import annotations

from typing import Any

from flax import linen as nn

from deeplearn.interop.config import Config
from deeplearn.interop.family import Family, tokens
from deeplearn.interop.table import Table, Tensor, expand
from deeplearn.layers.attention import Attention
from deeplearn.layers.feed_forward import FeedForward
from deeplearn.models.sequence import SequenceModel
from deeplearn.models.transformer import GPT2, transformer
from deeplearn.types import Variables

TABLE: Table = {
    "transformer.wte.weight": ("params/embedding/embedding",),
    "transformer.wpe.weight": ("params/position/embedding",),
    **{
        f"transformer.h.{{layer}}.{theirs}": (f"params/layers/{{layer}}/blocks_0/{ours}",)
        for theirs, ours in {
            "ln_1.weight": "mixer_norm/scale",
            "ln_1.bias": "mixer_norm/bias",
            "attn.c_attn.weight": "mixer/qkv/kernel",
            "attn.c_attn.bias": "mixer/qkv/bias",
            "attn.c_proj.weight": "mixer/output/kernel",
            "attn.c_proj.bias": "mixer/output/bias",
            "ln_2.weight": "feed_forward_norm/scale",
            "ln_2.bias": "feed_forward_norm/bias",
            "mlp.c_fc.weight": "feed_forward/input/kernel",
            "mlp.c_fc.bias": "feed_forward/input/bias",
            "mlp.c_proj.weight": "feed_forward/output/kernel",
            "mlp.c_proj.bias": "feed_forward/output/bias",
        }.items()
    },
    "transformer.ln_f.weight": ("params/norm/scale",),
    "transformer.ln_f.bias": ("params/norm/bias",),
}


def _recognizes(model: nn.Module) -> bool:
    return (
        isinstance(model, SequenceModel)
        and isinstance(model.pattern[0].mixer, Attention)
        and isinstance(model.pattern[0].feed_forward, FeedForward)
        and model.learned_positions
    )


def _model(config: Config) -> SequenceModel:
    sizes = GPT2(
        vocabulary=config.size("vocab_size", 50257),
        width=config.size("n_embd", 768),
        depth=config.size("n_layer", 12),
        heads=config.size("n_head", 12),
        max_length=config.size("n_positions", 1024),
    )
    # Two names of one function.
    config.expect("activation_function", "gelu_new", "gelu_pytorch_tanh")
    config.expect("n_inner", 4 * sizes.width, None)
    config.expect("layer_norm_epsilon", 1e-5)
    config.expect("scale_attn_weights", True)
    config.expect("scale_attn_by_inverse_layer_idx", False)
    config.expect("add_cross_attention", False)
    config.expect("tie_word_embeddings", True)
    config.skip("attn_pdrop", "embd_pdrop", "resid_pdrop", "reorder_and_upcast_attn", "n_ctx")
    config.skip(*(f"summary_{name}" for name in _SUMMARY))
    # Of old files: how their tokenizer was made.
    config.skip("n_special", "predict_special_tokens")
    return transformer(sizes)


# Of a head for classification, which is not read.
_SUMMARY = ("activation", "first_dropout", "proj_to_labels", "type", "use_proj")


def _config(model: SequenceModel, variables: Variables) -> dict[str, Any]:
    block: Any = model.pattern[0]
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": model.vocabulary,
        "n_embd": model.width,
        "n_layer": model.repeats,
        "n_head": block.mixer.heads,
        "n_positions": model.max_length,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def _tensors(model: SequenceModel) -> list[Tensor]:
    return expand(TABLE, model.repeats, model.scan)


FAMILY = Family(
    model_type="gpt2",
    recognizes=_recognizes,
    model=_model,
    config=_config,
    example=tokens,
    tensors=_tensors,
    prefix="transformer.",
    # Causal masks that old files hold.
    passed_over=r"transformer\.h\.\d+\.attn\.(masked_)?bias",
    tied={"lm_head.weight": "transformer.wte.weight"},
)
