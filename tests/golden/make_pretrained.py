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
    GPT2Config,
    LlamaConfig,
    ResNetConfig,
)

HERE = Path(__file__).resolve().parent
SEQUENCE = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
CONFIGS = {
    "gpt2": GPT2Config(vocab_size=61, n_embd=24, n_layer=2, n_head=3, n_positions=20, **SEQUENCE),
    "llama": LlamaConfig(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=32,
        rope_theta=500.0,
        **SEQUENCE,
    ),
    "resnet": ResNetConfig(
        embedding_size=2,
        hidden_sizes=[8, 16, 32, 64],
        depths=[3, 4, 6, 3],
        num_labels=5,
    ),
}
AUTO = {"resnet": AutoModelForImageClassification}


def model_of(config):
    return AUTO.get(config.model_type, AutoModelForCausalLM)


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


def inputs_of(config) -> np.ndarray:
    rng = np.random.default_rng(0)
    if config.model_type == "resnet":
        return rng.standard_normal((2, 3, 32, 32)).astype(np.float32)
    return rng.integers(0, config.vocab_size, (2, 12), dtype=np.int64)


def outputs_of(model, inputs: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.from_numpy(inputs)).logits.float().numpy()


def make() -> None:
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        model = model_of(config).from_config(config)
        shake(model)
        inputs = inputs_of(config)
        with tempfile.TemporaryDirectory() as directory:
            model.save_pretrained(directory)
            np.savez_compressed(
                HERE / f"pretrained_{name}.npz",
                checkpoint=np.frombuffer(Path(directory, "model.safetensors").read_bytes(), "u1"),
                config=Path(directory, "config.json").read_text(),
                inputs=inputs,
                outputs=outputs_of(model, inputs),
                made_with=f"transformers {transformers.__version__}, torch {torch.__version__}",
            )
        print(name, (HERE / f"pretrained_{name}.npz").stat().st_size, "bytes")


def read(directory: str) -> None:
    config = AutoConfig.from_pretrained(directory)
    model, report = model_of(config).from_pretrained(directory, output_loading_info=True)
    outputs = outputs_of(model, inputs_of(config))
    print(json.dumps({"report": {key: sorted(map(str, x)) for key, x in report.items()}}))
    print(json.dumps({"outputs": outputs.reshape(-1)[:8].tolist()}))


if __name__ == "__main__":
    make() if sys.argv[1:] == ["make"] else read(sys.argv[2])
