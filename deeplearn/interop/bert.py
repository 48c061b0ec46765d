"""BERT: the encoder (`BertModel`), or with its masked-word head (`BertForMaskedLM`).

A file of `BertForPreTraining` is read as the latter, without its pooler and sentence-order head.
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn

from deeplearn.errors import DataError
from deeplearn.interop.config import Config
from deeplearn.interop.family import Family, tokens
from deeplearn.interop.table import Table, Tensor, columns, expand, transposed
from deeplearn.models.bert import BERT, MaskedLanguageModel
from deeplearn.types import Variables

MASKED = ("BertForMaskedLM", "BertForPreTraining")


def _encoder(width: int) -> Table:
    """Their names and ours, of the encoder without the head."""
    table: dict[str, tuple[Any, ...]] = {
        "embeddings.word_embeddings.weight": ("embedding/embedding",),
        "embeddings.position_embeddings.weight": ("position/embedding",),
        "embeddings.token_type_embeddings.weight": ("type/embedding",),
        **_norm("embeddings.LayerNorm", "norm"),
    }
    theirs, ours = "encoder.layer.{layer}", "layers/{layer}"
    for index, name in enumerate(("query", "key", "value")):
        part = columns(index * width, width)
        linear = f"{theirs}.attention.self.{name}"
        table[f"{linear}.weight"] = (f"{ours}/attention/qkv/kernel", part, transposed)
        table[f"{linear}.bias"] = (f"{ours}/attention/qkv/bias", part)
    return {
        **table,
        **_linear(f"{theirs}.attention.output.dense", f"{ours}/attention/output"),
        **_norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/attention_norm"),
        **_linear(f"{theirs}.intermediate.dense", f"{ours}/feed_forward/input"),
        **_linear(f"{theirs}.output.dense", f"{ours}/feed_forward/output"),
        **_norm(f"{theirs}.output.LayerNorm", f"{ours}/feed_forward_norm"),
    }


def _linear(theirs: str, ours: str) -> Table:
    return {
        f"{theirs}.weight": (f"{ours}/kernel", transposed),
        f"{theirs}.bias": (f"{ours}/bias",),
    }


def _norm(theirs: str, ours: str) -> Table:
    return {f"{theirs}.weight": (f"{ours}/scale",), f"{theirs}.bias": (f"{ours}/bias",)}


def _tensors(model: BERT | MaskedLanguageModel) -> list[Tensor]:
    if isinstance(model, BERT):
        table = {**_encoder(model.width), **_linear("pooler.dense", "pooler")}
        return expand(_under("", "params/", table), model.depth)
    head = {
        **_linear("cls.predictions.transform.dense", "transform"),
        **_norm("cls.predictions.transform.LayerNorm", "norm"),
        "cls.predictions.bias": ("bias",),
    }
    encoder = _under("bert.", "params/encoder/", _encoder(model.encoder.width))
    return expand({**encoder, **_under("", "params/", head)}, model.encoder.depth)


def _under(theirs: str, ours: str, table: Table) -> Table:
    """The table with a prefix to either side."""
    return {f"{theirs}{name}": (f"{ours}{path}", *views) for name, (path, *views) in table.items()}


def _recognizes(model: nn.Module) -> bool:
    return isinstance(model, BERT | MaskedLanguageModel)


def _model(config: Config) -> BERT | MaskedLanguageModel:
    encoder = BERT(
        vocabulary=config.size("vocab_size", 30522),
        width=config.size("hidden_size", 768),
        depth=config.size("num_hidden_layers", 12),
        heads=config.size("num_attention_heads", 12),
        features=config.size("intermediate_size", 3072),
        max_length=config.size("max_position_embeddings", 512),
        types=config.size("type_vocab_size", 2),
        epsilon=config.number("layer_norm_eps", 1e-12),
        dropout=0.0,
    )
    config.expect("hidden_act", "gelu")
    config.expect("position_embedding_type", "absolute")
    config.expect("is_decoder", False)
    config.expect("add_cross_attention", False)
    config.expect("tie_word_embeddings", True)
    config.skip("attention_probs_dropout_prob", "hidden_dropout_prob", "classifier_dropout")
    # Of the first published files; no code reads them.
    config.skip("directionality", *(f"pooler_{name}" for name in _POOLER))
    names = config.get("architectures") or ["BertModel"]
    if names[0] == "BertModel":
        return encoder
    if names[0] in MASKED:
        return MaskedLanguageModel(encoder)
    raise DataError(
        f"{config.where}: architectures={names!r} is not known; choose one of: BertModel,"
        f" {', '.join(MASKED)}"
    )


_POOLER = ("fc_size", "num_attention_heads", "num_fc_layers", "size_per_head", "type")


def _config(model: BERT | MaskedLanguageModel, variables: Variables) -> dict[str, Any]:
    encoder = model if isinstance(model, BERT) else model.encoder
    return {
        "architectures": ["BertModel" if isinstance(model, BERT) else "BertForMaskedLM"],
        "model_type": "bert",
        "vocab_size": encoder.vocabulary,
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": encoder.features,
        "max_position_embeddings": encoder.max_length,
        "type_vocab_size": encoder.types,
        "layer_norm_eps": encoder.epsilon,
        "hidden_act": "gelu",
        "dtype": "float32",
    }


FAMILY = Family(
    model_type="bert",
    recognizes=_recognizes,
    model=_model,
    config=_config,
    example=tokens,
    tensors=_tensors,
    renamed={r"LayerNorm\.gamma$": "LayerNorm.weight", r"LayerNorm\.beta$": "LayerNorm.bias"},
    passed_over=r"(bert\.)?embeddings\.position_ids|bert\.pooler\..*|cls\.seq_relationship\..*",
    tied={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    optional=r"params/pooler/.*",
    method=lambda model: "pooled" if isinstance(model, BERT) else "__call__",
)
