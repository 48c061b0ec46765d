"""Models that leave: StableHLO for any batch, directories of our naming, and the command line."""

from __future__ import annotations

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from deeplearn.errors import DataError, UsageError
from deeplearn.interop import stablehlo
from deeplearn.interop.native import load_variables, save_variables
from deeplearn.interop.pretrained import from_pretrained, save_pretrained
from deeplearn.interop.stablehlo import export_stablehlo, load_stablehlo
from deeplearn.models.bert import BERT, MaskedLanguageModel
from deeplearn.models.dcgan import DCGANDiscriminator
from deeplearn.models.denoiser import MLPDenoiser
from deeplearn.models.lstm import lstm
from deeplearn.models.mamba import Mamba2Sizes, MambaSizes, mamba
from deeplearn.models.mlp import MLP
from deeplearn.models.resnet import ResNet
from deeplearn.models.rnn import mingru, rnn
from deeplearn.models.transformer import GPT2, Llama, transformer
from experiments import launch

LLAMA = transformer(Llama(13, 8, 2, heads=4, kv_heads=2, features=12, max_length=16))
ENCODER = BERT(13, 8, depth=1, heads=2, features=12, max_length=6)
MODELS = {
    "lstm": lstm(13, 8, 2),
    "mingru": mingru(13, 8, 2),
    "rnn": rnn(13, 8, 2),
    "bert": ENCODER,
    "bert masked": MaskedLanguageModel(ENCODER),
    "dcgan": DCGANDiscriminator(channels=(4, 6)),
    "gpt2": transformer(GPT2(13, 8, 1, heads=2, max_length=6)),
    "llama": LLAMA,
    "mamba": mamba(MambaSizes(13, 8, 1, state_size=3)),
    "mamba2": mamba(Mamba2Sizes(13, 8, 1, state_size=3, head_width=4)),
    "mlp": MLP((4,), 3),
    "resnet": ResNet(8, 3, 2),
}


def example(model) -> np.ndarray:
    if isinstance(model, MLP):
        return np.ones((1, 5), np.float32)
    if isinstance(model, DCGANDiscriminator):
        return np.ones((1, 8, 8, 1), np.float32)
    if isinstance(model, ResNet):
        return np.ones((1, 8, 8, 3), np.float32)
    return np.ones((1, 5), np.int32)


def initialized(model):
    return jax.jit(model.init)(jax.random.key(0), example(model))


@pytest.fixture
def command(monkeypatch, capsys):
    """A function that runs a command line in this process: words → (exit code, stdout, stderr)."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["launch", *words])
        code = launch.main()
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("name", MODELS)
def test_stablehlo_computes_the_model_for_any_batch(name, tmp_path):
    model = MODELS[name]
    variables = initialized(model)
    path = tmp_path / "model.stablehlo"
    path.write_bytes(export_stablehlo(model, variables, example(model)))
    loaded = load_stablehlo(path)
    rng = np.random.default_rng(0)
    for batch in (1, 3):
        shape = (batch, *example(model).shape[1:])
        x = rng.integers(1, 13, shape).astype(example(model).dtype)
        wanted = jax.jit(model.apply)(variables, x)
        wanted = wanted[0] if isinstance(wanted, tuple) else wanted
        assert loaded(x).shape == wanted.shape
        np.testing.assert_allclose(loaded(x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "bert masked"])
def test_stablehlo_of_an_encoder_of_text_passes_over_padding(name, tmp_path):
    model = MODELS[name]
    variables = initialized(model)
    path = tmp_path / "model.stablehlo"
    path.write_bytes(export_stablehlo(model, variables, example(model)))
    x = np.array([[3, 5, 7, 0, 0]], np.int32)
    wanted = jax.jit(model.apply)(variables, x, segments=(x > 0).astype(np.int32))
    np.testing.assert_allclose(load_stablehlo(path)(x), wanted, rtol=1e-5, atol=1e-5)
    alone = jax.jit(model.apply)(variables, x[:, :3])
    np.testing.assert_allclose(load_stablehlo(path)(x)[:, :3], alone, rtol=1e-5, atol=1e-5)


def test_what_is_no_stablehlo_and_what_is_too_large_for_it_are_named(tmp_path, monkeypatch):
    path = tmp_path / "model.stablehlo"
    for content in (b"", b"nothing of the kind" * 9):
        path.write_bytes(content)
        with pytest.raises(DataError, match="holds no exported model") as error:
            load_stablehlo(path)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="FileNotFoundError"):
        load_stablehlo(tmp_path / "nowhere")
    monkeypatch.setattr(stablehlo, "LIMIT_BYTES", 100)
    model = MODELS["mlp"]
    with pytest.raises(UsageError, match="the variables have 156 bytes"):
        export_stablehlo(model, initialized(model), example(model))


@pytest.mark.parametrize("shard_bytes", [10**9, 500])
def test_our_own_directories_hold_any_model_to_the_bit(shard_bytes, tmp_path):
    other = rnn(13, 8, 2)
    models = [LLAMA, ResNet(8, 3, 2), other]
    for index, model in enumerate(models):
        variables = initialized(model)
        target = tmp_path / str(index)
        save_variables(target, model, variables, shard_bytes)
        assert (len(list(target.glob("*.safetensors"))) > 1) == (shard_bytes == 500)
        read = load_variables(target, model)
        assert jax.tree.structure(read) == jax.tree.structure(dict(variables))
        assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), read, dict(variables)))


def test_our_own_directory_of_another_model_is_refused(tmp_path):
    save_variables(tmp_path / "a", LLAMA, initialized(LLAMA))
    load_variables(tmp_path / "a", LLAMA.clone(dropout=0.1, remat="full"))
    with pytest.raises(UsageError, match="epsilon=1e-05 there, 1e-06 here"):
        load_variables(tmp_path / "a", LLAMA.clone(epsilon=1e-6))
    with pytest.raises(UsageError, match="scan=True there, False here"):
        load_variables(tmp_path / "a", LLAMA.clone(scan=False))
    with pytest.raises(DataError, match="model.json cannot be read"):
        load_variables(tmp_path, LLAMA)
    with pytest.raises(UsageError, match="is not empty"):
        save_variables(tmp_path / "a", LLAMA, initialized(LLAMA))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (None, r"'params/output/bias' is missing, and model.json has float32\[3\]"),
        (
            np.zeros(3, np.float16),
            r"'params/output/bias' is float16\[3\], and model.json has float32",
        ),
        (np.zeros(4, np.float32), r"is float32\[4\], and model.json has float32\[3\]"),
    ],
)
def test_a_leaf_that_is_missing_or_of_another_type_is_named(tensor, message, tmp_path):
    model = MODELS["mlp"]
    save_variables(tmp_path / "a", model, initialized(model))
    path = tmp_path / "a" / "model.safetensors"
    tensors = {**load_file(path), "params/output/bias": tensor}
    save_file({name: x for name, x in tensors.items() if x is not None}, path)
    with pytest.raises(DataError, match=message):
        load_variables(tmp_path / "a", model)


def test_import_brings_a_directory_into_our_naming(command, tmp_path):
    variables = initialized(LLAMA)
    save_pretrained(tmp_path / "theirs", LLAMA, variables)
    source, target = f"--source={tmp_path / 'theirs'}", f"--target={tmp_path / 'ours'}"
    code, out, err = command("import", source, target)
    assert (code, err) == (0, "") and "a SequenceModel of 1,208 numbers" in out
    read = load_variables(tmp_path / "ours", LLAMA)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), read, dict(variables)))
    code, _, err = command("import", source, target)
    assert code == 2 and "is not empty" in err
    (tmp_path / "theirs" / "config.json").write_text(json.dumps({"model_type": "opt"}))
    code, _, err = command("import", source, f"--target={tmp_path / 'more'}")
    assert code == 3 and err.count("\n") == 1 and "model_type='opt' is not known" in err


@pytest.fixture
def run_of(monkeypatch):
    """A function that lets the command line find a run with this model and batch."""

    class Run:
        def __init__(self, model, batch):
            data = type("", (), {"batch": staticmethod(lambda step, rows: batch)})
            task = type("Task", (), {"model": model} if model else {})()
            self.experiment = type("", (), {"task": task, "train_dataset": staticmethod(data)})
            self.state = None

    def place(model, variables, batch) -> None:
        monkeypatch.setattr("deeplearn.load", lambda workdir: Run(model, batch), raising=False)
        monkeypatch.setattr("deeplearn.step.evaluation_variables", lambda state: variables)

    return place


def test_export_writes_what_other_programs_read(command, run_of, tmp_path):
    variables = initialized(LLAMA)
    run_of(LLAMA, variables, {"tokens": np.ones((1, 6), np.int32)})
    target = tmp_path / "hf"
    code, out, err = command("export", "--workdir=x", f"--target={target}")
    assert (code, err) == (0, "") and "a Hugging Face directory" in out
    assert jax.tree.all(
        jax.tree.map(lambda a, b: (a == b).all(), from_pretrained(target)[1], dict(variables))
    )
    target = tmp_path / "llama.stablehlo"
    words = ("export", "--workdir=x", "--format=stablehlo")
    code, out, err = command(*words, f"--target={target}")
    assert (code, err) == (0, "") and "inputs (any number, 5) of int32" in out
    assert load_stablehlo(target)(jnp.ones((2, 5), jnp.int32)).shape == (2, 5, 13)
    code, _, err = command(*words, f"--target={target}")
    assert code == 2 and "exists" in err
    code, _, err = command(*words, f"--target={target / 'below'}")
    assert code == 2 and f"there is no directory {target}; make it" in err


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_export_of_a_model_without_a_family_uses_our_naming(command, run_of, tmp_path, name):
    """Also of one whose family has no such form, as ResNets for small images."""
    model = MODELS[name]
    variables = initialized(model)
    run_of(model, variables, {"x": example(model)})
    code, out, _ = command("export", "--workdir=x", f"--target={tmp_path / 'ours'}")
    assert code == 0 and f"{type(model).__name__} under our own names" in out
    read = load_variables(tmp_path / "ours", model)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), read, dict(variables)))


def test_export_says_what_it_cannot_write(command, run_of, tmp_path):
    target = f"--target={tmp_path / 'out'}"
    code, _, err = command("export", "--workdir=x", target, "--format=stabelhlo")
    assert code == 2 and "did you mean 'stablehlo'?" in err
    run_of(None, {}, {})
    code, _, err = command("export", "--workdir=x", target)
    assert code == 2 and "the task of this run, Task, has no such" in err
    run_of(MODELS["mlp"], {}, {"source": 0})
    code, _, err = command("export", "--workdir=x", target, "--format=stablehlo")
    assert code == 2 and "a model of one input" in err
    run_of(MLPDenoiser(4, 1), {}, {"x": np.ones((1, 2), np.float32)})
    code, _, err = command("export", "--workdir=x", target, "--format=stablehlo")
    assert code == 2 and "MLPDenoiser reads x, noise_level; export safetensors" in err
