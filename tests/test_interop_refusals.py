"""What interop refuses, in one line that names the tensor, the setting or the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pretrained import GOLDEN, MODELS, change, random_variables, save_llama, shard_of
from safetensors.numpy import load_file, save_file

from deeplearn.errors import DataError, UsageError
from deeplearn.interop.pretrained import from_pretrained, save_pretrained
from deeplearn.models.mlp import MLP
from deeplearn.models.resnet import ResNet


@pytest.fixture
def saved(tmp_path) -> Path:
    """A small Llama directory in three files or more."""
    return save_llama(tmp_path / "llama")


def configure(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(action, *arguments) -> str:
    """The one line of the `DataError` or `UsageError` that an action ends in."""
    with pytest.raises((DataError, UsageError)) as error:
        action(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
Q = "model.layers.2.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("tensor", "wanted"),
    [
        (np.zeros((8, 9), np.float32), f"'{Q}' has shape (8, 9), but config.json asks for (8, 8)"),
        (np.zeros((8, 8), np.int8), f"'{Q}' is I8, not one of F32, F16, BF16"),
        (np.zeros((8, 8), np.float64), f"'{Q}' is F64"),
        (None, f"'{Q}' is not in model-"),
    ],
)
def test_a_wrong_tensor_is_named(saved, tensor, wanted):
    change(saved, Q, tensor)
    assert wanted in refused(from_pretrained, saved)


def test_an_optional_part_is_there_as_a_whole_or_not_at_all(tmp_path):
    """A BERT may come without its pooler."""
    stored, path = np.load(GOLDEN / "pretrained_bert.npz"), tmp_path / "model.safetensors"
    path.write_bytes(stored["checkpoint"].tobytes())
    (tmp_path / "config.json").write_text(str(stored["config"]))
    tensors = load_file(path)
    del tensors["pooler.dense.bias"]
    save_file(tensors, path)
    assert "'pooler.dense.bias' is missing" in refused(from_pretrained, tmp_path)
    del tensors["pooler.dense.weight"]
    save_file(tensors, path)
    assert "pooler" not in from_pretrained(tmp_path)[1]["params"]


def test_a_missing_or_unknown_tensor_is_named(saved):
    index = saved / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    held = content["weight_map"].pop(Q)
    index.write_text(json.dumps(content))
    assert f"'{Q}' is missing" in refused(from_pretrained, saved)
    content["weight_map"][Q] = held
    index.write_text(json.dumps(content))
    configure(saved, num_hidden_layers=2)
    message = refused(from_pretrained, saved)
    assert "'model.layers.2.input_layernorm.weight' (and 8 more) is unknown" in message


@pytest.mark.parametrize(
    ("damage", "wanted"),
    [
        ({"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, "rope_scaling="),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor=None must be"),
        ({"rope_scaling": {**SCALING, "high_freq_factor": 1.0}}, "must be above low_freq_factor"),
        ({"rope_scaling": {**SCALING, "attention_factor": 2.0}}, "attention_factor=2.0 is not"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_parameters="),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial"),
        ({"attention_bias": True}, "attention_bias=True cannot be expressed"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' cannot be expressed"),
        ({"hidden_size": "8"}, "hidden_size='8' must be a whole number"),
        ({"rms_norm_eps": 0}, "rms_norm_eps=0 must be a number above 0"),
        (
            {"num_key_value_heads": 3},
            "config.json: Attention: heads=4 is no multiple of kv_heads=3",
        ),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings=1 must be true or false"),
        ({"sliding_window": 4}, "sliding_window=4 is not known for this model_type"),
        ({"model_type": "lama"}, "model_type='lama' is not known; did you mean 'llama'?"),
    ],
)
def test_a_setting_that_cannot_be_expressed_is_refused(saved, damage, wanted):
    configure(saved, **damage)
    with pytest.raises(DataError) as error:
        from_pretrained(saved)
    assert wanted in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("bert", "architectures", ["BertForSequenceClassification"]),
        ("bert", "hidden_act", "relu"),
        ("bert", "is_decoder", True),
        ("bert", "position_embedding_type", "relative_key"),
        ("gpt2", "activation_function", "relu"),
        ("gpt2", "n_inner", 7),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("mamba", "use_bias", True),
        ("mamba", "use_conv_bias", False),
        ("mamba2", "num_heads", 5),
        ("mamba2", "time_step_limit", [0.0, 1.0]),
        ("mistral", "sliding_window", 0),
        ("mistral", "attention_bias", True),
        ("mistral", "layer_types", ["full_attention"]),
        ("resnet", "depths", [3, 4, 6, 4]),
        ("resnet", "downsample_in_bottleneck", True),
        ("resnet", "hidden_sizes", [8, 16, 32, 65]),
    ],
)
def test_a_setting_of_every_family_is_refused_by_its_name(name, field, value, tmp_path):
    config = json.loads(str(np.load(GOLDEN / f"pretrained_{name}.npz")["config"]))
    (tmp_path / "config.json").write_text(json.dumps({**config, field: value}))
    assert f"{field}={value!r}" in refused(from_pretrained, tmp_path)


def test_settings_of_both_versions_give_the_rotary_embedding(saved):
    def read() -> tuple:
        mixer = from_pretrained(saved)[0].pattern[0].mixer
        return mixer.rotary, mixer.rotary_scaling

    configure(saved, rope_theta=77.0, rope_scaling=None)
    assert read() == (77.0, None)
    configure(saved, rope_scaling=SCALING)
    assert read() == (77.0, (8.0, 1.0, 4.0, 16))
    configure(saved, rope_scaling=None, rope_parameters={**SCALING, "rope_theta": 66.0})
    assert read() == (66.0, (8.0, 1.0, 4.0, 16))
    configure(saved, rope_parameters={"rope_type": "default", "rope_theta": 55.0})
    assert read() == (55.0, None)


def test_a_damaged_directory_is_named(saved, tmp_path):
    assert "config.json cannot be read" in refused(from_pretrained, tmp_path / "nowhere")
    shard = shard_of(saved, Q)
    shard.write_bytes(shard.read_bytes()[:40])
    assert f"{shard.name} cannot be read" in refused(from_pretrained, saved)
    shard.unlink()
    assert f"{shard.name} cannot be read" in refused(from_pretrained, saved)
    index = saved / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {Q: "../x.safetensors"}}))
    assert "weight_map must give each tensor a file" in refused(from_pretrained, saved)
    index.unlink()
    (saved / "pytorch_model.bin").touch()
    assert "pytorch_model.bin can run code" in refused(from_pretrained, saved)


def test_what_cannot_be_written_is_refused_and_nothing_is_written(tmp_path):
    llama = MODELS["llama"]
    variables = random_variables(llama)
    target = tmp_path / "out"

    def message(model, variables=variables) -> str:
        return refused(save_pretrained, target, model, variables)

    gpt2 = MODELS["gpt2"]
    window = gpt2.pattern[0].clone(mixer=gpt2.pattern[0].mixer.clone(window=4))
    assert "pattern" not in message(MLP((4,), 3))
    assert "no Hugging Face family expresses a MLP" in message(MLP((4,), 3))
    assert "window=4 has no counterpart" in message(gpt2.clone(pattern=(window,)))
    mistral = MODELS["mistral"]
    biased = mistral.pattern[0].clone(mixer=mistral.pattern[0].mixer.clone(use_bias=True))
    assert "use_bias=True has no counterpart" in message(mistral.clone(pattern=(biased,)))
    mixed = (*mistral.pattern, *llama.pattern)
    assert "pattern" in message(mistral.clone(pattern=mixed))
    assert "max_position_embeddings=None" in message(llama.clone(max_length=None))
    assert "CIFAR form" in message(ResNet(20, 3))
    fewer = {"params": {**variables["params"], "output": np.zeros((8, 12), np.float32)}}
    assert "'params/output' has shape (8, 12), but the model's is (8, 13)" in message(llama, fewer)
    more = {**variables, "batch_stats": {"mean": np.zeros(3)}}
    assert "'batch_stats/mean' has shape (3,)" in message(llama, more)
    assert not target.exists()
    target.mkdir()
    (target / "old.safetensors").touch()
    assert "is not empty" in message(llama)
