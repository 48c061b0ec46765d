"""One small experiment of each family, with everything switched on that a resume could lose."""

from __future__ import annotations

import dataclasses

import numpy as np

from deeplearn.data.image import RandomCrop, RandomFlip
from deeplearn.data.memory import Arrays
from deeplearn.experiment import EarlyStopping, Experiment
from deeplearn.models.alexnet import AlexNet
from deeplearn.models.mlp import MLP
from deeplearn.models.resnet import ResNet
from deeplearn.optimizers import SGD, AdamW
from deeplearn.schedules import Cosine
from deeplearn.tasks.classification import Classification

CLASSES = 3
STEPS = 24


def images(rows: int, size: int) -> Arrays:
    """Noisy images whose brightest quarter tells their class."""
    generator = np.random.default_rng(0)
    label = generator.integers(0, CLASSES, rows)
    x = generator.integers(0, 120, (rows, size, size, 1)).astype(np.uint8)
    for row, kind in enumerate(label):
        x[row, (kind // 2) * size // 2 :, (kind % 2) * size // 2 :][: size // 2, : size // 2] += 100
    return Arrays({"x": x, "label": label})


MODELS = {
    "mlp": lambda: MLP(hidden=(16, 16), outputs=CLASSES, dropout=0.2, normalization="batch"),
    "alexnet": lambda: AlexNet(
        outputs=CLASSES, channels=(4, 6, 8, 8, 6), hidden=(12,), window=3, stride=1
    ),
    "resnet": lambda: ResNet(depth=8, width=4, outputs=CLASSES),
}


# A family under another rule of the loop: more steps a call; a watched metric that turns worse
# with every evaluation, since a loss that falls is what it calls worse.
VARIANTS: dict[str, tuple[str, dict]] = {
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
    data = images(40, 16)
    common = {"schedule": Cosine(warmup=5), "ema_decay": 0.9, "clip_norm": 1.0}
    return Experiment(
        name=name,
        task=Classification(MODELS[name](), smoothing=0.1),
        train=data,
        evaluation={"validation": data},
        optimizer=AdamW(**common) if name == "mlp" else SGD(learning_rate=0.05, **common),
        steps=STEPS,
        batch_size=12,
        augment=(RandomCrop(padding=1), RandomFlip()),
        log_every=4,
        evaluate_every=6,
        save_every=3,
        microbatches=2,
        early_stopping=EarlyStopping("validation/loss", patience=100),
    )
