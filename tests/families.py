"""One small experiment of each family, with everything switched on that a resume could lose."""

from __future__ import annotations

import dataclasses
import string
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from deeplearn.data.corpus import Documents, Text, TextPairs
from deeplearn.data.image import RandomCrop, RandomFlip
from deeplearn.data.memory import Arrays
from deeplearn.data.pairs import Pairs
from deeplearn.data.permutation import uniform
from deeplearn.data.source import Examples
from deeplearn.data.text import Packed, Windows
from deeplearn.data.vocabulary import SPECIALS, Characters
from deeplearn.experiment import EarlyStopping, Experiment
from deeplearn.models.alexnet import AlexNet
from deeplearn.models.dcgan import DCGANDiscriminator, DCGANGenerator
from deeplearn.models.denoiser import MLPDenoiser
from deeplearn.models.encoder_decoder import lstm_encoder_decoder
from deeplearn.models.gan import MLPDiscriminator, MLPGenerator
from deeplearn.models.lstm import lstm
from deeplearn.models.mamba import MambaSizes, mamba
from deeplearn.models.mlp import MLP
from deeplearn.models.resnet import ResNet
from deeplearn.models.rnn import rnn
from deeplearn.models.transformer import GPT2, transformer
from deeplearn.optimizers import SGD, Adam, AdamW
from deeplearn.players import Players
from deeplearn.processes import VarianceExploding
from deeplearn.schedules import Cosine
from deeplearn.tasks.adversarial import Adversarial
from deeplearn.tasks.classification import Classification
from deeplearn.tasks.denoising import Denoising
from deeplearn.tasks.language import Language
from deeplearn.tasks.regression import Regression
from deeplearn.tasks.translation import Translation

CLASSES = 3
STEPS = 24
LETTERS = Characters(string.ascii_lowercase + " ", SPECIALS)


def images(rows: int, size: int) -> Arrays:
    """Noisy images whose brightest quarter tells their class."""
    generator = np.random.default_rng(0)
    label = generator.integers(0, CLASSES, rows)
    x = generator.integers(0, 120, (rows, size, size, 1)).astype(np.uint8)
    for row, kind in enumerate(label):
        x[row, (kind // 2) * size // 2 :, (kind % 2) * size // 2 :][: size // 2, : size // 2] += 100
    return Arrays({"x": x, "label": label})


@dataclass(frozen=True, eq=False)
class Streamed(Arrays):
    """Images that are read, and darkened at random, when their batch is made."""

    in_memory: ClassVar[bool] = False

    def sample(self, indices: np.ndarray, keys: np.ndarray) -> Examples:
        """The examples at `indices`, the light of each drawn from `keys`."""
        examples = self.gather(indices)
        light = uniform(keys, 0).astype(np.float32).reshape(-1, 1, 1, 1)
        return {**examples, "x": examples["x"] * light}


def vectors(rows: int) -> Arrays:
    """Four numbers around their class, and their sum as a target."""
    generator = np.random.default_rng(0)
    label = generator.integers(0, CLASSES, rows)
    x = generator.normal(label[:, None], 0.1, (rows, 4)).astype(np.float32)
    return Arrays({"x": x, "label": label, "target": x.sum(1)})


def words() -> list[str]:
    """40 words of 3 to 8 letters."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(3, 9, 40)
    return ["".join(generator.choice(list(string.ascii_lowercase), size)) for size in sizes]


MODELS = {
    "mlp": lambda: MLP(hidden=(16, 16), outputs=CLASSES, dropout=0.2, normalization="batch"),
    "alexnet": lambda: AlexNet(
        outputs=CLASSES, channels=(4, 6, 8, 8, 6), hidden=(12,), window=3, stride=1
    ),
    "resnet": lambda: ResNet(depth=8, width=4, outputs=CLASSES),
}
LANGUAGE_MODELS = {
    "transformer": lambda: transformer(
        GPT2(LETTERS.size, width=8, depth=1, heads=2, max_length=8), dropout=0.2
    ),
    "mamba": lambda: mamba(MambaSizes(LETTERS.size, width=8, depth=1, state_size=2), dropout=0.2),
    "lstm": lambda: lstm(LETTERS.size, width=8, depth=1, dropout=0.2),
    "rnn": lambda: rnn(LETTERS.size, width=8, depth=1, dropout=0.2),
}
SEQUENCES = (*LANGUAGE_MODELS, "translation")
GENERATORS = {
    "gan": lambda: Adversarial(
        MLPGenerator((8,), outputs=4, classes=CLASSES),
        MLPDiscriminator((8,), classes=CLASSES),
        latent=2,
        conditional=True,
        r1=0.1,
        r2=0.1,
    ),
    "sngan": lambda: Adversarial(
        DCGANGenerator((8, 8, 1), channels=(4, 4), kernel_size=3),
        DCGANDiscriminator(channels=(4, 4), kernel_size=3, normalization="spectral"),
        latent=2,
        objective="hinge",
    ),
    "diffusion": lambda: Denoising(
        MLPDenoiser(width=8, depth=1, classes=CLASSES), VarianceExploding(), label_dropout=0.3
    ),
}


STREAM = Streamed(images(40, 16).fields)
# A family under another rule of the loop: data that no memory holds; more steps a call; a watched
# metric that turns worse with every evaluation, since a loss that falls is what it calls worse.
VARIANTS: dict[str, tuple[str, dict]] = {
    "mlp_streamed": ("mlp", {"train": STREAM, "evaluation": {"validation": STREAM}}),
    "mlp_three_steps_a_call": ("mlp", {"steps_per_call": 3, "log_every": 6}),
    "mlp_stopped_early": (
        "mlp",
        {"early_stopping": EarlyStopping("validation/loss", patience=2, mode="max")},
    ),
}


def family(name: str) -> Experiment:
    """Shuffling, augmentation, dropout or BatchNorm, EMA, clipping, a schedule, early stopping."""
    base, changes = VARIANTS.get(name, (name, {}))
    return dataclasses.replace(_family(base), name=name, **changes)


def _family(name: str) -> Experiment:
    task, data = _parts(name)
    return Experiment(
        name=name,
        task=task,
        train=data,
        evaluation={"validation": data},
        optimizer=_optimizer(name),
        steps=STEPS,
        batch_size=12,
        augment=(RandomCrop(padding=1), RandomFlip()) if name in MODELS else (),
        log_every=4,
        evaluate_every=6,
        save_every=3,
        microbatches=2,
        early_stopping=EarlyStopping("validation/loss", patience=100),
    )


def _optimizer(name: str) -> Any:
    common: dict[str, Any] = {"schedule": Cosine(warmup=5), "clip_norm": 1.0}
    if name in ("gan", "sngan"):
        player = Adam(**common)
        return Players(player, player, n_critic=2, ema_decay=0.9)
    if name in MODELS and name != "mlp":
        return SGD(learning_rate=0.05, ema_decay=0.9, **common)
    return AdamW(ema_decay=0.9, **common)


def _parts(name: str) -> tuple[Any, Any]:
    """Task and data of a family."""
    if name in GENERATORS:
        return GENERATORS[name](), images(40, 8) if name == "sngan" else vectors(40)
    if name == "regression":
        model = MLP(hidden=(16,), outputs=1, dropout=0.2)
        return Regression(model, target_mean=4.0, target_scale=3.0), vectors(40)
    return _sequences(name) if name in SEQUENCES else _images(name)


def _images(name: str) -> tuple[Any, Any]:
    """Task and data of a family that sees images."""
    return Classification(MODELS[name](), smoothing=0.1), images(40, 16)


def _sequences(name: str) -> tuple[Any, Any]:
    """Task and data of a family that reads text: windows of one, documents in rows, or pairs."""
    if name == "translation":
        model = lstm_encoder_decoder(LETTERS.size, LETTERS.size, width=8, depth=1, dropout=0.2)
        pairs = TextPairs([(word, word[::-1]) for word in words()])
        return Translation(model, smoothing=0.1), Pairs(pairs, "all", LETTERS, LETTERS, 9, 9)
    task = Language(LANGUAGE_MODELS[name]())
    if name == "mamba":
        return task, Packed(Documents(words()), "all", 8, LETTERS)
    return task, Windows(Text(" ".join(words())), "all", 8, 1, LETTERS)
