"""Hugging Face directories: outputs are those of transformers, what is wrong is named.

The golden files are made by tests/golden/make_pretrained.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from pretrained import (
    GOLDEN,
    LLAMA_SIZES,
    MODELS,
    change,
    example,
    random_variables,
    same,
    save_llama,
)
from safetensors.numpy import load_file, save_file

from deeplearn.errors import DataError
from deeplearn.experiment import record
from deeplearn.interop.comparison import first_difference
from deeplearn.interop.config import Config
from deeplearn.interop.family import shapes
from deeplearn.interop.pretrained import FAMILIES, expressed, from_pretrained, save_pretrained
from deeplearn.models.bert import BERT, MaskedLanguageModel
from deeplearn.models.mamba import Mamba2Sizes, mamba
from deeplearn.models.transformer import GPT2, Llama, preset, transformer


@pytest.fixture(
    params=[
        "bert",
        "bert_masked",
        "gpt2",
        "llama",
        "llama_scaled",
        "mamba",
        "mamba2",
        "mistral",
        "resnet",
    ]
)
def golden(request, tmp_path) -> tuple[Path, Any]:
    """A directory as transformers wrote it, and what transformers computes of it."""
    stored = np.load(GOLDEN / f"pretrained_{request.param}.npz")
    (tmp_path / "model.safetensors").write_bytes(stored["checkpoint"].tobytes())
    (tmp_path / "config.json").write_text(str(stored["config"]))
    return tmp_path, stored


def test_the_outputs_are_those_of_transformers(golden):
    directory, stored = golden
    model, variables = from_pretrained(directory)
    apply = jax.jit(model.apply, static_argnames="method")
    if "pixel_values" in stored:
        pairs = {"logits": apply(variables, stored["pixel_values"].transpose(0, 2, 3, 1))}
    elif "attention_mask" not in stored:
        pairs = {"logits": apply(variables, stored["input_ids"])[0]}
    elif isinstance(model, BERT):
        inputs = {"segments": stored["attention_mask"], "types": stored["token_type_ids"]}
        pairs = {
            "last_hidden_state": apply(variables, stored["input_ids"], **inputs),
            "pooler_output": apply(variables, stored["input_ids"], **inputs, method="pooled"),
        }
    else:
        pairs = {"logits": apply(variables, stored["input_ids"], segments=stored["attention_mask"])}
    for name, ours in pairs.items():
        theirs = stored[name]
        if ours.ndim == 3 and "attention_mask" in stored:
            real = stored["attention_mask"][:, :, None]
            ours, theirs = ours * real, theirs * real
        # The logits of the ResNet go to 337, where fp32 has steps of 3e-5.
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=2e-4)
        assert np.abs(theirs).max() > 0.05


def test_writing_a_golden_checkpoint_gives_its_tensors_back(golden):
    directory, _ = golden
    save_pretrained(directory / "again", *from_pretrained(directory))
    again = load_file(directory / "again" / "model.safetensors")
    theirs = load_file(directory / "model.safetensors")
    assert set(again) == set(theirs)
    assert all(np.array_equal(again[key], theirs[key]) for key in theirs)
    assert {x.dtype for x in again.values()} == {x.dtype for x in theirs.values()}


@pytest.mark.parametrize("shard_bytes", [10**9, 3000])
@pytest.mark.parametrize("name", MODELS)
def test_export_then_import_is_equal_to_the_bit(name, shard_bytes, tmp_path):
    model = MODELS[name]
    variables = random_variables(model)
    save_pretrained(tmp_path / "out", model, variables, shard_bytes)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    readable = (tmp_path / "out" / "config.json").stat().st_mode
    assert {path.stat().st_mode for path in (tmp_path / "out").iterdir()} == {readable}
    if shard_bytes == 3000:
        assert len(files) > 1 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    else:
        assert files == ["model.safetensors"]
    read_model, read = from_pretrained(tmp_path / "out")
    if name == "llama unrolled":
        assert read_model.scan
        for layer in range(3):
            mine = variables["params"][f"layers_{layer}"]
            assert same(mine, jax.tree.map(lambda x, i=layer: x[i], read["params"]["layers"]))
    else:
        assert same(variables, read)
        shape = example(model)
        ones = np.ones(shape.shape, shape.dtype)
        mine, theirs = jax.jit(model.apply)(variables, ones), jax.jit(read_model.apply)(read, ones)
        assert same(mine, theirs)


def test_training_fields_do_not_hinder_the_export(tmp_path):
    model = transformer(LLAMA_SIZES, dropout=0.1, dtype="bfloat16").clone(remat="full")
    save_pretrained(tmp_path / "out", model, random_variables(model))
    read, _ = from_pretrained(tmp_path / "out")
    assert read.dtype == "float32" and read.remat is None
    assert [block.dropout for block in read.pattern] == [0.0]
    assert first_difference(record(read), record(model), set()) is None


def test_a_mistral_has_the_window_of_its_settings(tmp_path):
    model = MODELS["mistral"]
    save_pretrained(tmp_path, model, random_variables(model))
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    assert settings.pop("sliding_window") == 3
    for given, window, written in [
        ({}, 4096, "mistral"),
        ({"sliding_window": None}, None, "llama"),
    ]:
        path.write_text(json.dumps({**settings, **given}))
        read, variables = from_pretrained(tmp_path)
        assert read.pattern[0].mixer.window == window
        assert expressed(read, variables)[0].model_type == written


def test_bfloat16_and_float16_become_the_same_number_in_float32(tmp_path):
    saved = save_llama(tmp_path / "llama")
    name = "model.layers.1.mlp.down_proj.weight"
    for dtype in (ml_dtypes.bfloat16, np.float16):
        tensor = np.linspace(-3, 3, 96).reshape(8, 12).astype(dtype)
        change(saved, name, tensor)
        _, variables = from_pretrained(saved)
        leaf = variables["params"]["layers"]["blocks_0"]["feed_forward"]["output"]["kernel"]
        assert leaf.dtype == np.float32
        assert np.array_equal(leaf[1], tensor.astype(np.float32).T)


def test_a_bare_base_model_is_read(tmp_path):
    model = MODELS["gpt2"]
    variables = random_variables(model)
    save_pretrained(tmp_path, model, variables)
    tensors = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): x for name, x in tensors.items()}
    # What the first files of GPT-2 hold beside the parameters.
    bare["h.0.attn.bias"] = np.tril(np.ones((1, 1, 6, 6), np.float32))
    bare["h.0.attn.masked_bias"] = np.full((1,), -1e4, np.float32)
    save_file(bare, tmp_path / "model.safetensors")
    assert same(variables, from_pretrained(tmp_path)[1])


def test_a_tied_copy_may_be_there_if_it_is_equal(tmp_path):
    model = MODELS["llama tied"]
    save_pretrained(tmp_path, model, random_variables(model))
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}, path)
    from_pretrained(tmp_path)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, path)
    with pytest.raises(DataError, match="'lm_head.weight' differs from 'model.embed_tokens"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gpt2", 124_439_808),
        ("llama_8b", 8_030_261_248),
        ("llama_1b", 1_235_814_400),
        ("llama_3b", 3_212_749_824),
        ("mistral_7b", 7_241_732_096),
    ],
)
def test_the_table_of_a_preset_covers_the_published_number_of_parameters(name, count):
    model = preset(name)
    family = FAMILIES[name.partition("_")[0]]
    ours = shapes(model, example(model))
    assert sum(int(np.prod(shape)) for shape in ours.values()) == count
    table = family.tensors(model)
    assert sum(int(np.prod(tensor.shape(ours[tensor.path]))) for tensor in table) == count


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("llama_1b", {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32}),
        ("llama_3b", {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24}),
    ],
)
def test_a_preset_of_llama_3_2_is_what_its_published_settings_say(name, sizes):
    settings = {
        **sizes,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": sizes["hidden_size"] // sizes["num_attention_heads"],
        "hidden_act": "silu",
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "vocab_size": 128256,
    }
    config = Config(settings, "config.json")
    assert FAMILIES["llama"].model(config) == preset(name)
    config.finish()


def test_the_preset_of_mistral_is_what_its_published_settings_say():
    settings = {
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    }
    # Eight heads of keys and values, unless it says otherwise.
    for given in ({}, {"num_key_value_heads": 8}):
        config = Config({**settings, **given}, "config.json")
        assert FAMILIES["mistral"].model(config) == preset("mistral_7b")
        config.finish()


_GPT2 = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_positions": 1024,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}


def test_heads_of_a_width_of_their_own_need_not_divide_the_width(tmp_path):
    model = transformer(Llama(13, 8, 1, heads=3, kv_heads=3, features=12, head_width=4))
    save_pretrained(tmp_path, model, random_variables(model))
    assert from_pretrained(tmp_path)[0] == model


PUBLISHED = {
    "gpt2-medium": (
        preset("gpt2_medium"),
        {"n_embd": 1024, "n_head": 16, "n_layer": 24, "predict_special_tokens": True, **_GPT2},
    ),
    "gpt2-xl": (
        preset("gpt2_xl"),
        {"n_embd": 1600, "n_head": 25, "n_layer": 48, "output_past": True, **_GPT2},
    ),
    "distilgpt2": (
        transformer(GPT2(50257, 768, 6, 12)),
        {
            "_num_labels": 1,
            "id2label": {"0": "LABEL_0"},
            "label2id": {"LABEL_0": 0},
            "n_layer": 6,
            **_GPT2,
        },
    ),
    "bert-base-chinese": (
        MaskedLanguageModel(BERT(21128, 768, 12, 12, 3072, dropout=0.0)),
        {
            "architectures": ["BertForMaskedLM"],
            "attention_probs_dropout_prob": 0.1,
            "directionality": "bidi",
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "model_type": "bert",
            "pooler_fc_size": 768,
            "pooler_num_attention_heads": 12,
            "pooler_num_fc_layers": 3,
            "pooler_size_per_head": 128,
            "pooler_type": "first_token_transform",
            "vocab_size": 21128,
        },
    ),
    "Mamba-Codestral-7B-v0.1": (
        mamba(Mamba2Sizes(32768, 4096, 64, 128, 64, 8)).clone(tied=False),
        {
            "conv_kernel": 4,
            "head_dim": 64,
            "hidden_size": 4096,
            "intermediate_size": 8192,
            "model_type": "mamba2",
            "n_groups": 8,
            "norm_before_gate": True,
            "num_heads": 128,
            "rms_norm": True,
            "time_step_limit": [0.0, float("inf")],
            "time_step_rank": 256,
        },
    ),
}
"""The model of each published config.json, and what stands in that file."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_that_change_no_output_hinder_no_import(name):
    model, settings = PUBLISHED[name]
    config = Config(settings, "config.json")
    assert FAMILIES[config.get("model_type")].model(config) == model
    config.finish()
