"""Every experiment, shrunk by overrides, builds, trains a few steps, stops and goes on."""

import importlib
import io
import itertools
import sys

import pytest
import tensorflow_datasets as tfds
from PIL import Image
from test_train import At, terminate

from deeplearn import generation
from deeplearn.data import tfds_pairs, tfds_text
from deeplearn.data.corpus import Pair
from deeplearn.errors import Preempted
from deeplearn.evaluate import Evaluator
from deeplearn.experiment import record
from deeplearn.overrides import override
from deeplearn.program import Program
from deeplearn.report.receipt import state_sha256
from deeplearn.tasks.language import Language
from deeplearn.train import load, train
from experiments._command import experiments

COMMON = [
    "steps=4",
    "batch_size=8",
    "evaluation_batch_size=16",
    "log_every=2",
    "evaluate_every=4",
    "save_every=2",
]
SMALL_TEXT = [
    "task.model.encoder.width=8",
    "task.model.decoder.width=8",
    "task.model.encoder.repeats=1",
    "task.model.decoder.repeats=1",
    "task.model.encoder.vocabulary=300",
    "task.model.decoder.vocabulary=300",
    *(
        f"{source}.{side}_vocabulary.size_limit=300"
        for source in ("train", "evaluation.validation", "evaluation.test")
        for side in ("source", "target")
    ),
    "train.source_length=40",
    "train.target_length=40",
]
SMALL_ALEXNET = ["task.model.channels=(4,4,4,4,4)", "task.model.hidden=(8,8)"]
# Up to eight channels a convolution on CPU has a second form, which is compiled beside the first.
SMALL_UNET = [
    "task.model.channels=12",
    "task.model.multipliers=(1,1)",
    "task.model.heads=1",
    "task.model.attention=()",
]
# One of them has two sizes of images, which take most of the compiling.
FLAT_UNET = [*SMALL_UNET, "task.model.multipliers=(1,)"]
FEW_IMAGES = ["train.split=train[:64]", "evaluation.test.split=test[:16]"]
SHORT_TEXT = [
    "task.model.repeats=1",
    "train.length=16",
    "evaluation.validation.length=16",
    "evaluation.validation.stride=4000",
]


def short_subwords(split):
    """Overrides of the text of an evaluation, as those of `SMALL_SUBWORDS`."""
    return [f"evaluation.{split}.{change}" for change in ("length=16", "vocabulary.size_limit=300")]


SMALL_SUBWORDS = [
    "task.model.vocabulary=300",
    "task.model.repeats=1",
    "task.model.width=16",
    "task.tile=128",
    "train.length=16",
    "train.vocabulary.size_limit=300",
]
SMALL_DECODER = [
    *SMALL_SUBWORDS,
    "task.model.pattern.0.mixer.heads=2",
    "task.model.pattern.0.mixer.head_width=8",
    "task.model.pattern.0.feed_forward.features=32",
]
SHRUNK = {
    "alexnet_fashion_mnist": SMALL_ALEXNET,
    "alexnet_imagenet": [*SMALL_ALEXNET, "train.size=80", "evaluation.validation.size=80"],
    # Nine channels: see SMALL_UNET.
    "dcgan_fashion_mnist": ["task.generator.channels=(9,9)", "task.discriminator.channels=(9,9)"],
    "deep_mlp": ["task.model.hidden=(8,8,8)"],
    "diffusion_emoji": [*FLAT_UNET, "train.size=8", "evaluation.test.size=8"],
    "diffusion_fashion_mnist": [*SMALL_UNET, *FEW_IMAGES],
    "diffusion_gaussians": ["task.model.width=8", "train.size=100", "evaluation.test.size=40"],
    "dit_imagenet": [
        "task.model.width=8",
        "task.model.depth=1",
        "task.model.heads=2",
        "train.size=8",
        "evaluation.validation.size=8",
    ],
    # Muon, which takes long to compile, is left to diffusion_fashion_mnist.
    "flow_fashion_mnist": [*FLAT_UNET, *FEW_IMAGES, "optimizer.elementwise=."],
    "gan_gaussians": [
        "task.generator.hidden=(8,)",
        "task.discriminator.hidden=(8,)",
        "steps_per_call=1",
    ],
    "lstm_shakespeare": SHORT_TEXT,
    "llama_8b": [
        *SMALL_DECODER,
        "task.model.pattern.0.mixer.kv_heads=1",
        "microbatches=2",
        *short_subwords("validation"),
    ],
    "mamba_2_8b": [
        *SMALL_SUBWORDS,
        "task.model.pattern.0.mixer.width=16",
        "task.model.pattern.0.mixer.state_size=4",
        "microbatches=2",
        *short_subwords("validation"),
    ],
    "mamba_shakespeare": SHORT_TEXT,
    "rnn_shakespeare": SHORT_TEXT,
    "lstm_phonemes": ["task.model.encoder.repeats=1"],
    "mlp_breast_cancer": ["task.model.hidden=(8,)"],
    "mlp_diabetes": ["task.model.hidden=(8,)", "evaluate_every=2"],
    "mlp_digits": ["task.model.hidden=(8,)"],
    "mlp_fashion_mnist": ["task.model.hidden=(8,)"],
    "r3gan_fashion_mnist": [
        "task.generator.channels=(4,4)",
        "task.discriminator.channels=(4,4)",
        "task.discriminator.blocks=1",
    ],
    "resnet_cifar10": ["task.model.depth=8", "task.model.width=2"],
    "resnet_fashion_mnist": ["task.model.depth=8", "task.model.width=2"],
    "resnet_imagenet": [
        "task.model.depth=18",
        "task.model.width=2",
        "train.size=32",
        "evaluation.validation.size=32",
    ],
    "transformer_lm1b": [*SMALL_DECODER, *short_subwords("test")],
    "transformer_shakespeare": [*SHORT_TEXT, "task.model.pattern.0.mixer.window=4"],
    "transformer_shakespeare_large": [
        *SHORT_TEXT,
        "task.model.width=16",
        "task.model.pattern.0.mixer.heads=2",
        "task.model.pattern.0.mixer.head_width=8",
        "task.model.pattern.0.feed_forward.features=32",
    ],
    "transformer_translate": SMALL_TEXT,
    "transformer_translate_all": [*SMALL_TEXT, "task.model.decoder.dtype=float32"],
    "transformer_translate_fr": SMALL_TEXT,
    "transformer_translate_six": SMALL_TEXT,
    "transformer_wmt": [*SMALL_TEXT, "task.model.decoder.dtype=float32"],
    "video_moving_digits": [
        *FLAT_UNET,
        *(
            f"{source}.{field}"
            for source in ("train", "evaluation.test")
            for field in ("frames=2", "side=10", "scale=1")
        ),
        "evaluation.test.size=24",
    ],
}


def test_every_experiment_is_tested():
    assert set(SHRUNK) == set(experiments())


def source(name):
    return importlib.import_module(f"experiments.{name}").experiment()


def help_pairs(language, split, data_dir):
    return [
        Pair(f"Choose {split} {number}", f"{number} wählen {split}", language)
        for number in range(96 if split == "train" else 24)
    ]


def entries(stress):
    """Words of three letters, said as they are spelled."""
    words = map("".join, itertools.product("bdfgk", repeat=3))
    return {word: (" ".join(word.upper()),) for word in words}


def bitmaps(path):
    """Squares of 128 greys, each under a character of its own."""
    files = []
    for number in range(128):
        file = io.BytesIO()
        Image.new("L", (8, 8), number).save(file, "PNG")
        files.append((chr(0x1F600 + number), file.getvalue()))
    return files


@pytest.fixture(autouse=True, scope="module")
def mock(tmp_path_factory):
    """Random examples of the right shapes for every TFDS name, and nothing on disk."""
    with pytest.MonkeyPatch.context() as patch, tfds.testing.mock_data(num_examples=128):
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        # The stock builders can be mocked; ours would prepare the real data.
        patch.setattr("deeplearn.data.tfds_records._own_builder", lambda name: None)
        patch.setattr("deeplearn.data.libreoffice_help._pairs", help_pairs)
        patch.setattr("deeplearn.data.cmudict._entries", entries)
        patch.setattr("deeplearn.data.emoji._bitmaps", bitmaps)
        _forget_texts()
        yield
    _forget_texts()


def _forget_texts():
    """What was read is kept by name, and these names are mocked."""
    tfds_text._texts.cache_clear()
    tfds_pairs._pairs.cache_clear()


@pytest.mark.parametrize("name", SHRUNK)
def test_an_experiment_is_valid_and_named_after_its_file(name):
    experiment = source(name)
    assert experiment.name == name
    experiment.validate()
    assert record(experiment) == record(source(name))


def once(function):
    """The function's first result, whatever it is called with."""
    results = []

    def first(*arguments):
        if not results:
            results.append(function(*arguments))
        return results[0]

    return first


@pytest.mark.parametrize("name", SHRUNK)
def test_a_shrunk_experiment_trains_and_goes_on_to_the_same_bits(name, tmp_path, monkeypatch):
    # A single row of pictures shows that a run draws.
    monkeypatch.setattr(generation, "ROWS", 1)
    # Compiling takes most of the time, and the three runs have one program.
    monkeypatch.setattr(Program, "compile", once(Program.compile))
    # The module, whose name in the package is that of its function.
    monkeypatch.setattr(sys.modules[train.__module__], "Evaluator", once(Evaluator))
    changes = [*COMMON, *SHRUNK[name]]
    # The players of a GAN have a schedule each.
    if getattr(getattr(source(name).optimizer, "schedule", None), "warmup", 0):
        changes.append("optimizer.schedule.warmup=1")
    experiment = override(source(name), changes)
    whole = train(experiment, tmp_path / "whole")
    told = any("bits_per_byte" in row for row in whole.metrics.values())
    assert told == isinstance(experiment.task, Language)
    with pytest.raises(Preempted):
        train(experiment, tmp_path / "cut", hooks=[At(2, terminate)])
    resumed = train(experiment, tmp_path / "cut")
    assert state_sha256(resumed.state) == state_sha256(whole.state)
    assert resumed.metrics == whole.metrics
    assert state_sha256(load(tmp_path / "cut").state) == state_sha256(whole.state)
