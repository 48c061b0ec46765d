"""Denoising: what diffusion models and flows are trained on, with or without a class.

A batch holds `x` (B, …), data of the process's `data_scale`, and optionally `label` int (B,) and
`mask` (B,). The model is called as `(x, noise_level, label=None, *, train=False) -> prediction`:
x_t scaled to variance 1, the conditioning (B,) of its level, and the label, −1 where there is none.
A model that reads labels has their number in a field `classes`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike

from deeplearn.errors import DataError, UsageError, did_you_mean
from deeplearn.losses import squared_error
from deeplearn.predictions import prediction_of, require_prediction, total_scale, x0_of
from deeplearn.processes import Process, coefficients, diffuse
from deeplearn.sampling.diffusion import SAMPLERS, Denoise
from deeplearn.sampling.guidance import guided, noise_between
from deeplearn.sampling.images import Request
from deeplearn.tasks.checks import require_fields, require_finite, require_labels
from deeplearn.tasks.example_keys import example_keys, fingerprint
from deeplearn.tasks.forward import apply_evaluation, apply_training, cleared, initialize
from deeplearn.types import Array, Aux, Batch, Mean, Variables

SMALLEST = 1e-6
"""The least quantile of the levels: at 0 x_t may be the data themselves, without any noise."""

NO_LABEL = -1
"""The label of an example whose class is not told; its one-hot vector is 0."""

LEAST_SIGNAL = 1e-6
"""The least `terminal_snr` for "noise": there its error stands in x0 times a thousand."""

SAMPLER, STEPS = "dpm_solver_2m", 20
"""How samples are drawn where the request does not say; a process of fewer steps takes its own."""

WEIGHTINGS: Mapping[str, Callable[[Array, Array], Array]] = {
    "uniform": lambda gain, snr: jnp.ones_like(gain),
    "x0": lambda gain, snr: gain,
    "min_snr": lambda gain, snr: gain * jnp.minimum(snr, 5.0),
}
"""Name → (squared error of x0 over that of the prediction, α²/σ²) → weight of the latter.

"uniform" takes the error of the prediction as it is: the simple loss of Ho et al. 2020 for
"noise", that of EDM for "v". "x0" is the error of x0. "min_snr" is that times the signal-to-noise
ratio, at most 5 (Hang et al. 2023, arXiv:2303.09556).
"""


@dataclass(frozen=True)
class Denoising:
    """Trains `model` to predict `prediction` of x_t at the levels that `process` draws.

    A model of 0 `classes` is not told the labels that the data may have.

    `prediction` is one of `predictions.PREDICTIONS`, `weighting` one of `WEIGHTINGS`. A share
    `label_dropout` of the labels is withheld in training, so that the model also learns to do
    without: classifier-free guidance needs it.
    """

    model: nn.Module
    process: Process
    prediction: str = "v"
    weighting: str = "uniform"
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        require_prediction(self.prediction, "task Denoising")
        if self.weighting not in WEIGHTINGS:
            hint = did_you_mean(self.weighting, WEIGHTINGS)
            raise UsageError(f"task Denoising: unknown weighting '{self.weighting}'{hint}")
        if self.prediction == "noise" and self.process.terminal_snr < LEAST_SIGNAL:
            raise UsageError(
                "task Denoising: prediction = noise says next to nothing of x0 where sampling by"
                f" {type(self.process).__name__} begins, at a signal-to-noise ratio of"
                f" {self.process.terminal_snr:.2g}; choose v or x0"
            )
        if not 0 <= self.label_dropout < 1:
            raise UsageError(
                f"task Denoising: label_dropout = {self.label_dropout} must be in [0, 1), a share"
                " of the labels; a model of 0 classes is told none"
            )

    def init(self, rng: Array, batch: Batch) -> Variables:
        """Fresh variables; `batch` gives shapes only."""
        level = jnp.zeros(len(batch["x"]), jnp.float32)
        return initialize(self.model, rng, batch["x"], level, *self._labels(batch))

    def loss(self, variables: Variables, batch: Batch, rng: Array) -> tuple[Array, Aux]:
        """The weighted squared error of the prediction, and the plain one of x0, `x0_error`."""
        batch = cleared(batch)
        level_rng, noise_rng, label_rng, model_rng = jax.random.split(rng, 4)
        size = len(batch["x"])
        level = self.process.draw(jax.random.uniform(level_rng, (size,), minval=SMALLEST))
        noise = jax.random.normal(noise_rng, batch["x"].shape)
        labels = tuple(
            jnp.where(jax.random.bernoulli(label_rng, self.label_dropout, (size,)), NO_LABEL, label)
            for label in self._labels(batch)
        )
        inputs, x = self._inputs(batch["x"], noise, level)
        prediction, mutated = apply_training(self.model, variables, model_rng, *inputs, *labels)
        means = self._means(prediction, x, noise, level, batch)
        loss = means.pop("loss")
        return loss.value, Aux(loss.weight, means, mutated)

    def evaluate(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """`loss` and `x0_error`, at a level and with a noise that are a function of the example.

        They come from the bits of its `x`: the same in every evaluation, in any order, batch size
        and padding, and of another model.
        """
        batch = cleared(batch)

        def draw(key: Array) -> tuple[Array, Array]:
            level_key, noise_key = jax.random.split(key)
            uniform = jax.random.uniform(level_key, minval=SMALLEST)
            return uniform, jax.random.normal(noise_key, batch["x"].shape[1:])

        uniform, noise = jax.vmap(draw)(example_keys(fingerprint(batch["x"])))
        level = self.process.draw(uniform)
        inputs, x = self._inputs(batch["x"], noise, level)
        prediction = apply_evaluation(self.model, variables, *inputs, *self._labels(batch))
        return self._means(prediction, x, noise, level, batch)

    @property
    def classes(self) -> int:
        """How many classes can be asked for: the field `classes` of the model; 0 without one."""
        return getattr(self.model, "classes", None) or 0

    @property
    def steps(self) -> int:
        """How many steps are sampled by where the request does not say."""
        return min(STEPS, getattr(self.process, "steps", STEPS))

    def denoiser(self, variables: Variables, label: ArrayLike | None = None) -> Denoise:
        """The model as a function x_t (B, …), level () → x0 (B, …).

        `label` is the class, one for all or int (B,); None is any, and so is `NO_LABEL`.
        """

        def denoise(x: Array, level: Array) -> Array:
            alpha, sigma = (value.astype(x.dtype) for value in self.process.alpha_sigma(level))
            size, scale = len(x), self.process.data_scale
            read = jnp.broadcast_to(self.process.conditioning(level).astype(x.dtype), (size,))
            labels = () if label is None else (jnp.broadcast_to(jnp.int32(label), (size,)),)
            scaled = x / total_scale(alpha, sigma, scale)
            prediction = apply_evaluation(self.model, variables, scaled, read, *labels)
            return x0_of(self.prediction, prediction, x, alpha, sigma, scale)

        return denoise

    def latents(self, rng: Array, request: Request) -> Array:
        """The noise that sampling begins with, at variance 1: (count, *shape)."""
        if request.shape is None:
            raise UsageError(
                "task Denoising: a denoiser fits many shapes; give the request that of one sample,"
                " such as experiment.train_dataset().spec['x'].shape"
            )
        return jax.random.normal(rng, (request.count, *request.shape))

    def draw(self, variables: Variables, latents: Array, request: Request, rng: Array) -> Array:
        """Samples (count, …) fp32 in the unit of the data, one compiled scan."""
        return self._drawn(variables, latents, request, rng, path=False)

    def path(self, variables: Variables, latents: Array, request: Request, rng: Array) -> Array:
        """x_t behind every step (steps, count, …), brought to the scale of the data."""
        return self._drawn(variables, latents, request, rng, path=True)

    def sample(self, variables: Variables, rng: Array, request: Request) -> Array:
        """`draw` of fresh latents; by DPM-Solver++(2M) in `steps` where nothing else is asked."""
        latents_rng, step_rng = jax.random.split(rng)
        return self.draw(variables, self.latents(latents_rng, request), request, step_rng)

    def _drawn(
        self, variables: Variables, latents: Array, request: Request, rng: Array, path: bool
    ) -> Array:
        self._require_possible(request)
        sampler, steps = request.sampler or SAMPLER, request.steps or self.steps
        labels = request.class_of()
        guidance = request.guidance, request.guidance_interval
        return _draw(self, sampler, steps, *guidance, path, variables, latents, labels, rng)

    def _require_possible(self, request: Request) -> None:
        request.require_classes(self.classes, "task Denoising")
        if request.guidance == 1 and request.guidance_interval is not None:
            raise UsageError(
                f"task Denoising: guidance_interval={request.guidance_interval} bounds a guidance,"
                " and guidance=1 is none; give another or leave out the interval"
            )
        if self.label_dropout or not self.classes:
            return
        where = "task Denoising: with label_dropout=0 the model has learned nothing without a label"
        if not request.labels:
            raise UsageError(f"{where}; give labels")
        if request.guidance != 1:
            raise UsageError(f"{where}, which guidance={request.guidance} needs; leave it at 1")

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Raises `DataError` for data that are not finite, and for labels missing or no class."""
        require_fields(batch, "x")
        if self.classes and "label" not in batch:
            raise DataError(
                f"the batch has no field 'label', and the model of task Denoising has classes ="
                f" {self.classes} to learn; give the data labels, or set task.model.classes=0"
            )
        require_finite(batch, "x")
        if self._told(batch):
            require_labels(batch, self.classes)

    def _labels(self, batch: Batch) -> tuple[Array, ...]:
        """The third argument of the model, where there is one."""
        return (batch["label"],) if self._told(batch) else ()

    def _told(self, batch: Mapping[str, object]) -> bool:
        """Whether the model reads the labels of such a batch."""
        return "label" in batch and getattr(self.model, "classes", None) != 0

    def _inputs(self, x0: Array, noise: Array, level: Array) -> tuple[tuple[Array, Array], Array]:
        """What the model reads, scaled x_t and conditioning (B,), and x_t itself."""
        x = diffuse(self.process, x0, noise, level)
        alpha, sigma = coefficients(self.process, level, x0)
        scaled = x / total_scale(alpha, sigma, self.process.data_scale)
        return (scaled, self.process.conditioning(level)), x

    def _means(
        self, prediction: Array, x: Array, noise: Array, level: Array, batch: Batch
    ) -> dict[str, Mean]:
        """`loss` and `x0_error`, averaged over the elements of an example and over examples."""
        scale = self.process.data_scale
        alpha, sigma = coefficients(self.process, level, x)
        target = prediction_of(self.prediction, batch["x"], noise, alpha, sigma, scale)
        # Linear in the prediction: the factor from its error to that of x0.
        one = jnp.ones_like(sigma)
        gain = x0_of(self.prediction, one, jnp.zeros_like(sigma), alpha, sigma, scale) ** 2
        weight = WEIGHTINGS[self.weighting](gain, (alpha / sigma) ** 2)
        error = squared_error(prediction, target).reshape(len(x), -1).mean(-1)
        mask = batch.get("mask")
        return {
            "loss": Mean.of(weight.reshape(-1) * error, mask),
            "x0_error": Mean.of(gain.reshape(-1) * error, mask),
        }


@functools.partial(
    jax.jit, static_argnames=("task", "sampler", "steps", "guidance", "interval", "path")
)
def _draw(
    task: Denoising,
    sampler: str,
    steps: int,
    guidance: float,
    interval: tuple[float, float] | None,
    path: bool,
    variables: Variables,
    latents: Array,
    labels: Array | None,
    rng: Array,
) -> Array:
    process, levels = task.process, task.process.grid(steps)
    _, sigma = process.alpha_sigma(process.noisiest)
    denoise = task.denoiser(variables, labels)
    if guidance != 1:
        active = None if interval is None else noise_between(process, *interval)
        denoise = guided(denoise, task.denoiser(variables, NO_LABEL), guidance, active)
    x = SAMPLERS[sampler](process, denoise, sigma * latents, levels, rng, path=path)
    if not path:
        return x
    alpha, sigma = process.alpha_sigma(levels[1:])
    scale = task.process.data_scale / total_scale(alpha, sigma, task.process.data_scale)
    return x * scale.astype(x.dtype).reshape(-1, *(1,) * latents.ndim)
