"""Hugging Face directories: outputs are those of transformers, what is wrong is named.

The golden files are made by tests/golden/make_pretrained.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from deeplearn.errors import DataError, UsageError
from deeplearn.interop.family import shapes
from deeplearn.interop.pretrained import FAMILIES, from_pretrained, save_pretrained
from deeplearn.models.bert import BERT, MaskedLanguageModel
from deeplearn.models.mamba import Mamba2Sizes, MambaSizes, mamba
from deeplearn.models.mlp import MLP
from deeplearn.models.resnet import ResNet
from deeplearn.models.transformer import GPT2, Llama, preset, transformer

GOLDEN = Path(__file__).parent / "golden"
GPT2_SIZES = GPT2(vocabulary=13, width=8, depth=2, heads=2, max_length=6)
LLAMA_SIZES = Llama(13, 8, 3, heads=4, kv_heads=2, features=12, max_length=16)
ENCODER = BERT(13, 8, depth=2, heads=2, features=12, max_length=6, dropout=0.0)
MODELS = {
    "bert": ENCODER,
    "bert masked": MaskedLanguageModel(ENCODER),
    "gpt2": transformer(GPT2_SIZES),
    "llama": transformer(LLAMA_SIZES),
    "llama tied": transformer(Llama(13, 8, 2, 2, 2, 12, tied=True, head_width=6)),
    "llama unrolled": transformer(LLAMA_SIZES).clone(scan=False),
    "mamba": mamba(MambaSizes(13, 8, 3, state_size=3)),
    "mamba2": mamba(Mamba2Sizes(13, 8, 3, state_size=3, head_width=4)),
    "mamba2 untied": mamba(Mamba2Sizes(13, 8, 1, state_size=3, head_width=2)).clone(tied=False),
    "resnet 18": ResNet(18, 3, 2),
    "resnet 50": ResNet(50, 3, 2),
}


def example(model) -> jax.ShapeDtypeStruct:
    if isinstance(model, ResNet):
        return jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.ShapeDtypeStruct((1, 1), jnp.int32)


def random_variables(model, seed: int = 0) -> dict[str, Any]:
    """Variables whose every number is another one."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), example(model))
    return jax.tree.map(
        lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), dict(shapes)
    )


def same(one, other) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True)
    )


@pytest.fixture
def saved(tmp_path) -> Path:
    """A small Llama directory in three files or more."""
    model = MODELS["llama"]
    save_pretrained(tmp_path / "llama", model, random_variables(model), shard_bytes=2000)
    return tmp_path / "llama"


def shard_of(directory: Path, name: str) -> Path:
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    return directory / index["weight_map"][name]


def change(directory: Path, name: str, tensor: np.ndarray | None) -> None:
    """Puts another tensor in the place of one, or takes it out of its file."""
    tensors = load_file(shard_of(directory, name))
    tensors[name] = tensor
    kept = {name: x for name, x in tensors.items() if x is not None}
    save_file(kept, shard_of(directory, name))


def configure(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture(params=["bert", "bert_masked", "gpt2", "llama", "mamba", "mamba2", "resnet"])
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
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-4)
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
    assert from_pretrained(tmp_path / "out")[0] == transformer(LLAMA_SIZES).clone(
        pattern=from_pretrained(tmp_path / "out")[0].pattern
    )


def test_bfloat16_and_float16_become_the_same_number_in_float32(saved):
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


def refused(action, *arguments) -> str:
    """The one line of the `DataError` or `UsageError` that an action ends in."""
    with pytest.raises((DataError, UsageError)) as error:
        action(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


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
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling="),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_parameters="),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial"),
        ({"attention_bias": True}, "attention_bias=True cannot be expressed"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' cannot be expressed"),
        ({"hidden_size": "8"}, "hidden_size='8' must be a whole number"),
        ({"rms_norm_eps": 0}, "rms_norm_eps=0 must be a number above 0"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings=1 must be true or false"),
        ({"sliding_window": 4}, "sliding_window=4 is not known for this model_type"),
        ({"model_type": "lama"}, "model_type='lama' is not known; did you mean 'llama'?"),
    ],
)
def test_a_setting_that_cannot_be_expressed_is_refused(saved, damage, wanted):
    configure(saved, **damage)
    assert wanted in refused(from_pretrained, saved)


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
        ("mamba2", "n_groups", 2),
        ("mamba2", "num_heads", 5),
        ("mamba2", "time_step_limit", [0.0, 1.0]),
        ("resnet", "depths", [3, 4, 6, 4]),
        ("resnet", "downsample_in_bottleneck", True),
        ("resnet", "hidden_sizes", [8, 16, 32, 65]),
    ],
)
def test_a_setting_of_every_family_is_refused_by_its_name(name, field, value, tmp_path):
    config = json.loads(str(np.load(GOLDEN / f"pretrained_{name}.npz")["config"]))
    (tmp_path / "config.json").write_text(json.dumps({**config, field: value}))
    assert f"{field}={value!r}" in refused(from_pretrained, tmp_path)


def test_settings_of_both_versions_give_the_rotary_base(saved):
    configure(saved, rope_theta=77.0, rope_scaling=None)
    assert from_pretrained(saved)[0].pattern[0].mixer.rotary == 77.0
    configure(saved, rope_parameters={"rope_type": "default", "rope_theta": 55.0})
    assert from_pretrained(saved)[0].pattern[0].mixer.rotary == 55.0


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
    block = llama.pattern[0]
    variables = random_variables(llama)
    target = tmp_path / "out"

    def message(model, variables=variables) -> str:
        return refused(save_pretrained, target, model, variables)

    window = block.clone(mixer=block.mixer.clone(window=4))
    assert "pattern" not in message(MLP((4,), 3))
    assert "no Hugging Face family expresses a MLP" in message(MLP((4,), 3))
    assert "window=4 has no counterpart" in message(llama.clone(pattern=(window,)))
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


@pytest.mark.parametrize(
    ("name", "count"),
    [("gpt2", 124_439_808), ("llama_8b", 8_030_261_248), ("llama_1b", 1_235_814_400)],
)
def test_the_table_of_a_preset_covers_the_published_number_of_parameters(name, count):
    model = preset(name)
    family = FAMILIES[name.partition("_")[0]]
    ours = shapes(model, example(model))
    assert sum(int(np.prod(shape)) for shape in ours.values()) == count
    table = family.tensors(model)
    assert sum(int(np.prod(tensor.shape(ours[tensor.path]))) for tensor in table) == count
