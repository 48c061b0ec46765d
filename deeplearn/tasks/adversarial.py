"""Adversarial training: a generator and a discriminator as one scalar loss.

    loss = L_G(D̄, G) + L_D(D, Ḡ)        the bar: no gradient passes

so one gradient holds those of the two separate games, both taken before either player moves. The
players are the two subtrees `generator` and `discriminator` of every collection;
`players.Players` gives each its own optimizer.

A batch holds `x` (B, …), where the task is conditional `label` int (B,), and optionally `mask`
(B,). Models are called `(z, label, train=…) -> image` and `(image, label, train=…) -> logit (B,)`,
without a label where the task is not conditional.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from deeplearn.adversarial_losses import LOSSES, gradient_penalty
from deeplearn.errors import UsageError, did_you_mean
from deeplearn.sampling.images import Request
from deeplearn.tasks.checks import require_fields, require_finite, require_labels
from deeplearn.tasks.example_keys import example_keys, fingerprint
from deeplearn.tasks.forward import apply_evaluation, apply_training, cleared, initialize
from deeplearn.tasks.player import DISCRIMINATOR, GENERATOR, joined, player
from deeplearn.tasks.player_failure import broken_player, collapsed_player
from deeplearn.types import Array, Aux, Batch, Mean, Variables


@dataclass(frozen=True)
class Adversarial:
    """Trains `generator` on z ~ N(0, I) of `latent` numbers against `discriminator`.

    `objective` is "non_saturating", "hinge", "wasserstein" or "relativistic". Gradient penalties
    join the discriminator's loss: `r1`/2·‖∇D‖² at real and `r2`/2·‖∇D‖² at fake images, and
    `interpolated`·(‖∇D‖ − 1)² between them; 0 leaves one out. `conditional` hands both players the
    label. Raises `UsageError` for a field out of range, and for a penalty of a discriminator with
    BatchNorm, whose logits depend on the other images of the batch.
    """

    generator: nn.Module
    discriminator: nn.Module
    latent: int = 64
    objective: str = "non_saturating"
    conditional: bool = False
    r1: float = 0.0
    r2: float = 0.0
    interpolated: float = 0.0

    def __post_init__(self) -> None:
        if self.objective not in LOSSES:
            hint = did_you_mean(self.objective, LOSSES)
            raise UsageError(f"task Adversarial: unknown objective '{self.objective}'{hint}")
        if self.latent < 1:
            raise UsageError(f"task Adversarial: latent = {self.latent} must be 1 or more")
        if self.conditional and not self.classes:
            raise UsageError(
                "task Adversarial: conditional=True needs classes to draw; set the field `classes`"
                f" of {type(self.generator).__name__} to the number of labels"
            )
        for name in ("r1", "r2", "interpolated"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(
                    f"task Adversarial: {name} = {getattr(self, name)} must be finite and 0 or more"
                )

    def init(self, rng: Array, batch: Batch) -> Variables:
        """Fresh variables of both players; `batch` gives shapes only."""
        self._require_same_classes()
        generator_rng, discriminator_rng = jax.random.split(rng)
        image, labels = batch["x"], self._labels(batch)
        z = jnp.zeros((len(image), self.latent), jnp.float32)
        variables = joined(
            initialize(self.generator, generator_rng, z, *labels),
            initialize(self.discriminator, discriminator_rng, image, *labels),
        )
        self._refuse_batch_norm(variables)
        return variables

    def loss(self, variables: Variables, batch: Batch, rng: Array) -> tuple[Array, Aux]:
        """The sum of both players' mean losses.

        Metrics are both losses, the mean logits, the penalty where there is one, `logit_deviation`,
        the mean distance of a logit from that of all images, and `fake_magnitude`, the mean |x| of
        the generator's images. A discriminator with BatchNorm judges fake images beside the real
        ones in both terms, since what it says of an image depends on the others.
        """
        self._refuse_batch_norm(variables)
        batch = cleared(batch)
        real, labels, mask = batch["x"], self._labels(batch), batch.get("mask")
        z_rng, generator_rng, discriminator_rng, mixing_rng = jax.random.split(rng, 4)
        generator = player(variables, GENERATOR)
        discriminator = player(variables, DISCRIMINATOR)

        z = self._latents(z_rng, len(real))
        fake, changed = apply_training(self.generator, generator, generator_rng, z, *labels)
        self._require_image(fake, real)
        fixed = jax.lax.stop_gradient(fake)
        both = jnp.concatenate([real, fixed])
        twice = [jnp.concatenate([label, label]) for label in labels]
        logits, changed_discriminator = apply_training(
            self.discriminator, discriminator, discriminator_rng, both, *twice
        )
        real_logits, fake_logits = jnp.split(logits, 2)

        # What this pass does to the statistics is dropped: they are the discriminator's own.
        frozen = {**discriminator, "params": jax.lax.stop_gradient(discriminator["params"])}
        judged = self._judge(frozen, discriminator_rng, fake, real, labels)

        means = self._means(jax.lax.stop_gradient(real_logits), real_logits, fake_logits, judged)
        penalties = gradient_penalty(
            lambda images: apply_training(
                self.discriminator, discriminator, discriminator_rng, images, *labels
            )[0],
            real,
            fixed,
            mixing_rng,
            r1=self.r1,
            r2=self.r2,
            interpolated=self.interpolated,
        )
        if penalties is not None:
            means["discriminator_loss"] += penalties
            means["gradient_penalty"] = penalties
        center = (Mean.of(real_logits, mask).value + Mean.of(fake_logits, mask).value) / 2
        means["logit_deviation"] = jnp.abs(jnp.stack([real_logits, fake_logits]) - center).mean(0)
        means["fake_magnitude"] = jnp.abs(fixed).reshape(len(fixed), -1).mean(-1)
        metrics = {name: Mean.of(values, mask) for name, values in means.items()}
        total = metrics["generator_loss"].value + metrics["discriminator_loss"].value
        weight = metrics["generator_loss"].weight
        return total, Aux(weight, metrics, joined(changed, changed_discriminator))

    def evaluate(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """Both losses without penalties, their sum `loss`, and the mean logits.

        The z of an image comes from its bits, so that two states compare, and so do evaluations in
        another order, batch size and padding.
        """
        batch = cleared(batch)
        real, labels, mask = batch["x"], self._labels(batch), batch.get("mask")
        keys = example_keys(fingerprint(real))
        z = jax.vmap(lambda key: jax.random.normal(key, (self.latent,), jnp.float32))(keys)
        fake = self.generate(variables, z, *labels)
        self._require_image(fake, real)
        discriminator = player(variables, DISCRIMINATOR)
        real_logits, fake_logits = (
            apply_evaluation(self.discriminator, discriminator, images, *labels)
            for images in (real, fake)
        )
        means = self._means(real_logits, real_logits, fake_logits, fake_logits)
        means["loss"] = means["generator_loss"] + means["discriminator_loss"]
        return {name: Mean.of(values, mask) for name, values in means.items()}

    def generate(self, variables: Variables, z: Array, label: Array | None = None) -> Array:
        """The images (B, …) of z (B, latent) and label int (B,), in evaluation mode."""
        labels = () if label is None else (label,)
        return apply_evaluation(self.generator, player(variables, GENERATOR), z, *labels)

    @property
    def parts(self) -> tuple[str, ...]:
        """The two players."""
        return GENERATOR, DISCRIMINATOR

    @property
    def classes(self) -> int:
        """How many classes can be asked for; 0 where the task is not conditional."""
        return (getattr(self.generator, "classes", None) or 0) if self.conditional else 0

    def latents(self, rng: Array, request: Request) -> Array:
        """z ~ N(0, I): (count, latent)."""
        return self._latents(rng, request.count)

    def draw(self, variables: Variables, latents: Array, request: Request, rng: Array) -> Array:
        """The images of latents (count, latent) in one pass; nothing else is drawn."""
        self._require_possible(request)
        images = _generate(self, variables, latents, request.class_of())
        if request.shape is not None and images.shape[1:] != request.shape:
            raise UsageError(
                f"task Adversarial: the generator makes images {images.shape[1:]}, and asked for"
                f" are {request.shape}; leave out the shape"
            )
        return images

    def sample(self, variables: Variables, rng: Array, request: Request) -> Array:
        """`request.count` images of fresh z; `UsageError` for what only diffusion has."""
        return self.draw(variables, self.latents(rng, request), request, rng)

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Raises `DataError` for images that are not finite, or labels out of range."""
        require_fields(batch, "x", *(["label"] if self.conditional else []))
        require_finite(batch, "x")
        if self.conditional:
            require_labels(batch, self.classes)

    def diagnose(self, metrics: Mapping[str, float]) -> str:
        """`broken_player` of a row of training metrics."""
        return broken_player(metrics)

    def collapse(self, metrics: Mapping[str, float]) -> str:
        """`collapsed_player` of a row of training metrics."""
        return collapsed_player(metrics)

    def _labels(self, batch: Batch) -> tuple[Array, ...]:
        return (batch["label"],) if self.conditional else ()

    def _latents(self, rng: Array, count: int) -> Array:
        return jax.random.normal(rng, (count, self.latent), jnp.float32)

    def _judge(
        self, variables: Variables, rng: Array, fake: Array, real: Array, labels: tuple[Array, ...]
    ) -> Array:
        """The logits of fake images, beside real ones where a logit depends on other images."""
        if "batch_stats" in variables:
            fake = jnp.concatenate([real, fake])
            labels = tuple(jnp.concatenate([label, label]) for label in labels)
        logits, _ = apply_training(self.discriminator, variables, rng, fake, *labels)
        return logits[-len(real) :]

    def _means(self, rival: Array, real: Array, fake: Array, judged: Array) -> dict[str, Array]:
        """Losses and logits (B,): `rival` and `judged` are real and fake as the generator's."""
        objective = LOSSES[self.objective]
        return {
            "generator_loss": objective.generator(rival, judged),
            "discriminator_loss": objective.discriminator(real, fake),
            "real_logit": real,
            "fake_logit": fake,
        }

    def _refuse_batch_norm(self, variables: Variables) -> None:
        penalized = [name for name in ("r1", "r2", "interpolated") if getattr(self, name)]
        if penalized and DISCRIMINATOR in variables.get("batch_stats", {}):
            raise UsageError(
                f"task Adversarial: {penalized[0]} = {getattr(self, penalized[0])} penalizes the"
                " gradient of each image, and the discriminator has BatchNorm, which mixes images;"
                f" take a discriminator without BatchNorm or set task.{penalized[0]}=0"
            )

    def _require_same_classes(self) -> None:
        """Not among the fields' checks: the two numbers are changed one after the other."""
        other = getattr(self.discriminator, "classes", None)
        if self.conditional and other is not None and other != self.classes:
            raise UsageError(
                f"task Adversarial: the generator has classes = {self.classes} and the"
                f" discriminator {other}; set the field `classes` of both to the number of labels"
            )

    def _require_possible(self, request: Request) -> None:
        request.require_one_pass("task Adversarial")
        if self.conditional and not request.labels:
            raise UsageError(
                "task Adversarial: with conditional=True every image has a class; give labels"
            )
        request.require_classes(self.classes, "task Adversarial")

    def _require_image(self, fake: Array, real: Array) -> None:
        if fake.shape != real.shape:
            raise UsageError(
                f"generator {type(self.generator).__name__} makes images {fake.shape[1:]}, and the"
                f" data are {real.shape[1:]}; set task.generator to the shape of the data"
            )


@functools.partial(jax.jit, static_argnames="task")
def _generate(task: Adversarial, variables: Variables, z: Array, label: Array | None) -> Array:
    return task.generate(variables, z, label)
