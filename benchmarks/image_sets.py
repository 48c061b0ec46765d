"""The images that a generative run is measured by: its samples, the real ones, and poor ones."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np

from deeplearn.data.pixels import PixelRange
from deeplearn.data.source import Source
from deeplearn.errors import UsageError
from deeplearn.generation import generate
from deeplearn.program import Program
from deeplearn.sampling.images import Request
from deeplearn.step import evaluation_variables
from deeplearn.train import Run
from deeplearn.types import Variables


class Images:
    """The images of a run's data and model, on [0, 1], with their labels."""

    def __init__(self, run: Run, count: int):
        if "test" not in run.experiment.evaluation:
            raise UsageError(
                f"{run.workdir}: its experiment has no test set to compare with; name another run"
            )
        self.run, self.count = run, count
        self._range = PixelRange.of(run.experiment.train)
        self.test, self.test_label = self._read(run.experiment.evaluation["test"], None)
        self.train, self.train_label = self.training()

    def training(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
        """So many training images at random, with their labels."""
        return self._read(self.run.experiment.train, self.count, seed)

    def _read(
        self, source: Source, count: int | None, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """All images of a source, or `count` at random."""
        indices = np.random.default_rng(seed).permutation(len(source))[:count]
        examples = source.gather(indices)
        return self._range.unit(examples["x"]), examples.get("label")

    def draw(self, variables: Variables, request: Request, seed: int = 0) -> np.ndarray:
        """What the model draws with these variables, labels being `independent`."""
        request = independent(request, seed)
        x = generate(self.run.experiment, variables, request, jax.random.key(seed))
        return self._range.unit(x)

    def references(self, request: Request) -> dict[str, np.ndarray]:
        """Name → images that are as good as can be, and some that are not good."""
        untrained = evaluation_variables(Program(self.run.experiment).init())
        # It knows no class to be guided to.
        request = unguided(request)
        found = {"training_images": self.train, "blurred": blurred(self.train)}
        if self.train_label is not None:
            found["class_means_with_noise"] = noisy_means(self.train, self.train_label)
        return {**found, "untrained_model": self.draw(untrained, request)}


def independent(request: Request, seed: int) -> Request:
    """The same request with a label for each sample, at random out of its own."""
    if not request.labels:
        return request
    drawn = np.random.default_rng(seed).choice(request.labels, request.count)
    return dataclasses.replace(request, labels=tuple(map(int, drawn)))


def independent_half(label: np.ndarray | None, count: int, seed: int = 0) -> np.ndarray:
    """The rows of half of `count` images, with as many of each class as independent draws have.

    A test set that has as many of each class as of any other is no such draw. Raises `UsageError`
    where the draw asks for more of a class than there are.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(count)
    if label is None:
        return order[: count // 2]
    classes, sizes = np.unique(label, return_counts=True)
    drawn = generator.multinomial(count // 2, sizes / count)
    if (drawn > sizes).any():
        raise UsageError(f"{count} test images are too few for {len(classes)} classes; bring more")
    mine = (order[label[order] == each] for each in classes)
    return np.concatenate([rows[:size] for rows, size in zip(mine, drawn, strict=True)])


def unguided(request: Request) -> Request:
    """The same request without guidance."""
    return dataclasses.replace(request, guidance=1.0, guidance_interval=None)


def blurred(images: np.ndarray, deviation: float = 1.0) -> np.ndarray:
    """Images (N, Y, X, C) under a Gaussian of so many pixels; borders are repeated."""
    reach = math.ceil(3 * deviation)
    weights = np.exp(-((np.arange(-reach, reach + 1) / deviation) ** 2) / 2)
    weights /= weights.sum()
    for axis in (1, 2):
        padding = [(reach, reach) if each == axis else (0, 0) for each in range(4)]
        padded = np.pad(images, padding, mode="edge")
        size = images.shape[axis]
        images = sum(
            weight * padded.take(range(shift, shift + size), axis)
            for shift, weight in enumerate(weights)
        )
    return images


def noisy_means(images: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The mean of each image's class with independent noise of its pixels' deviation, cut."""
    noise = np.random.default_rng(0).standard_normal(images.shape)
    found = np.empty(images.shape)
    for each in np.unique(label):
        mine = label == each
        found[mine] = images[mine].mean(axis=0) + noise[mine] * images[mine].std(axis=0)
    return np.clip(found, 0, 1)
