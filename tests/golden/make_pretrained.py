"""Makes the golden checkpoints beside this file with transformers, and reads ours back with it.

Not run by the tests. With torch and transformers at hand, from the root of the repository:

    python tests/golden/make_pretrained.py make           (writes tests/golden/pretrained_*.npz)
    python tests/golden/make_pretrained.py read DIR       (prints what transformers computes of DIR)

Each file holds a checkpoint of random weights as transformers wrote it, an input, and the output
that transformers computes in fp32.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    MistralConfig,
    ResNetConfig,
)

HERE = Path(__file__).resolve().parent
SEQUENCE = {"vocab_size": 61, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
BERT = BertConfig(
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=20,
    **SEQUENCE,
)
LLAMA = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 32,
    "rope_theta": 500.0,
    **SEQUENCE,
}
# Of the four frequencies the first stays, the second is between, two are divided.
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MAMBA = {"hidden_size": 24, "num_hidden_layers": 2, **SEQUENCE}
MODELS = {
    "bert": (BertModel, BERT),
    "bert_masked": (BertForMaskedLM, BERT),
    "gpt2": (
        AutoModelForCausalLM,
        GPT2Config(n_embd=24, n_layer=2, n_head=3, n_positions=20, **SEQUENCE),
    ),
    "llama": (AutoModelForCausalLM, LlamaConfig(**LLAMA)),
    "llama_scaled": (
        AutoModelForCausalLM,
        LlamaConfig(**LLAMA | {"max_position_embeddings": 512, "rope_parameters": SCALED}),
    ),
    "mamba": (
        AutoModelForCausalLM,
        MambaConfig(state_size=5, conv_kernel=3, time_step_rank=4, **MAMBA),
    ),
    "mamba2": (
        AutoModelForCausalLM,
        Mamba2Config(state_size=5, num_heads=6, head_dim=8, n_groups=2, chunk_size=8, **MAMBA),
    ),
    "mistral": (AutoModelForCausalLM, MistralConfig(sliding_window=4, **LLAMA)),
    "resnet": (
        AutoModelForImageClassification,
        ResNetConfig(
            embedding_size=2, hidden_sizes=[8, 16, 32, 64], depths=[3, 4, 6, 3], num_labels=5
        ),
    ),
}


def shake(model) -> None:
    """Every parameter and statistic becomes random: a fresh bias of 0 would show no mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, x in [*model.named_parameters(), *model.named_buffers()]:
            if not x.is_floating_point() or name.endswith("inv_freq"):
                continue
            noise = torch.randn(x.shape, generator=generator)
            if name.endswith("running_var"):
                x.copy_(noise.square() + 0.5)
            else:
                x.add_(0.1 * noise)


def inputs_of(config) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    if config.model_type == "resnet":
        return {"pixel_values": rng.standard_normal((2, 3, 32, 32)).astype(np.float32)}
    tokens = rng.integers(1, config.vocab_size, (2, 12), dtype=np.int64)
    if config.model_type != "bert":
        return {"input_ids": tokens}
    mask = np.ones_like(tokens)
    mask[1, 9:] = 0
    if not any(name == "BertModel" for name in config.architectures or ()):
        # Our model with a head has one text only.
        return {"input_ids": tokens, "attention_mask": mask}
    types = (np.arange(12)[None] >= np.array([[5], [4]])).astype(np.int64)
    return {"input_ids": tokens, "attention_mask": mask, "token_type_ids": types}


def outputs_of(model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        found = model.eval()(**{name: torch.from_numpy(x) for name, x in inputs.items()})
    names = ("logits", "last_hidden_state", "pooler_output")
    return {name: found[name].float().numpy() for name in names if name in found}


def make() -> None:
    for name, (kind, config) in MODELS.items():
        torch.manual_seed(0)
        model = kind(config) if name.startswith("bert") else kind.from_config(config)
        shake(model)
        config.architectures = [type(model).__name__]
        inputs = inputs_of(config)
        with tempfile.TemporaryDirectory() as directory:
            model.save_pretrained(directory)
            np.savez_compressed(
                HERE / f"pretrained_{name}.npz",
                checkpoint=np.frombuffer(Path(directory, "model.safetensors").read_bytes(), "u1"),
                config=Path(directory, "config.json").read_text(),
                made_with=f"transformers {transformers.__version__}, torch {torch.__version__}",
                **inputs,
                **outputs_of(model, inputs),
            )
        print(name, (HERE / f"pretrained_{name}.npz").stat().st_size, "bytes")


def read(directory: str) -> None:
    config = AutoConfig.from_pretrained(directory)
    kind = getattr(transformers, config.architectures[0])
    model, report = kind.from_pretrained(directory, output_loading_info=True)
    found = {
        name: x.reshape(-1)[:8].tolist() for name, x in outputs_of(model, inputs_of(config)).items()
    }
    print(json.dumps({key: sorted(map(str, names)) for key, names in report.items()}))
    print(json.dumps(found))


if __name__ == "__main__":
    make() if sys.argv[1:] == ["make"] else read(sys.argv[2])
