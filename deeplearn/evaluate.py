"""Evaluation: the same sums over the same batches inside and outside the training loop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from deeplearn.data.dataset import Sequential
from deeplearn.data.pairs import Pairs, padded
from deeplearn.data.prefetch import prefetch
from deeplearn.data.source import Examples, Field, Source
from deeplearn.data.vocabulary import Symbols
from deeplearn.errors import UsageError, naming
from deeplearn.experiment import Experiment
from deeplearn.sampling.autoregressive import BUCKET
from deeplearn.sharding import BATCH_AXIS, batch_sharding, process_rows, to_devices
from deeplearn.step import evaluation_variables
from deeplearn.tasks.task import Compressing, Task
from deeplearn.text_metrics import bleu, chrf, error_rate, exact_match
from deeplearn.types import Batch, Mean, Variables

if TYPE_CHECKING:
    from deeplearn.train import Run


class Evaluator:
    """Evaluates variables on the splits of an experiment; compiles once per shape of batch."""

    def __init__(self, experiment: Experiment, mesh: Mesh):
        self._experiment = experiment
        self._sharding = batch_sharding(mesh)
        self._task: Task = experiment.task
        self._mesh = mesh
        self._measured: dict[tuple[tuple[str, Field], ...], dict[str, Mean]] = {}

        def add(totals: dict[str, Mean], variables: Variables, batch: Batch) -> dict[str, Mean]:
            return jax.tree.map(jnp.add, totals, experiment.task.evaluate(variables, batch))

        # Stated, so that the first call, on zeros, is the same program as the others.
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._add = jax.jit(add, donate_argnums=0, out_shardings=self._replicated)

    def __call__(self, variables: Variables, split: str) -> dict[str, float]:
        """The metrics of a split, each example counted once.

        `bits_per_byte` is among them where the task codes a text and the source knows its bytes.
        """
        with naming(f"split '{split}'"):
            metrics = values(self._totals(variables, split))
        source: Any = self.dataset(split).source
        if isinstance(self._task, Compressing) and _knows_bytes(source):
            bits = self._task.bits_per_byte(metrics["loss"], source.bytes_per_token)
            metrics["bits_per_byte"] = bits
        return metrics

    def _totals(self, variables: Variables, split: str) -> dict[str, Mean]:
        totals: dict[str, Mean] = {}
        for batch in self._batches(self.dataset(split)):
            if not totals:
                shapes = self.measured(variables, split)
                totals = jax.device_put(
                    jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes),
                    self._replicated,
                )
            totals = self._add(totals, variables, batch)
        return totals

    def names(self, variables: Variables, split: str) -> tuple[str, ...]:
        """The names of the metrics of a split, for variables that may be shapes."""
        coded = isinstance(self._task, Compressing) and _knows_bytes(self.dataset(split).source)
        return (*self.measured(variables, split), *(["bits_per_byte"] if coded else []))

    def dataset(self, split: str) -> Sequential:
        """The batches of a split, whose rows the mesh can divide."""
        return self._experiment.evaluation_dataset(split, self._mesh.shape[BATCH_AXIS])

    def measured(self, variables: Variables, split: str) -> dict[str, Mean]:
        """The metrics of a split as shapes, for variables that may be shapes too.

        Splits of the same fields are traced once.
        """
        dataset = self.dataset(split)
        fields = tuple(sorted(dataset.spec.items()))
        if fields not in self._measured:
            batch = {
                name: jax.ShapeDtypeStruct((dataset.batch_size, *field.shape), field.dtype)
                for name, field in fields
            }
            self._measured[fields] = jax.eval_shape(self._task.evaluate, variables, batch)
        return self._measured[fields]

    def _batches(self, dataset: Sequential) -> Any:
        def place(batch: Mapping[str, np.ndarray]) -> Batch:
            self._task.check(batch)
            return to_devices(batch, self._sharding)

        rows = process_rows(self._mesh, dataset.batch_size)
        return prefetch(dataset, rows, range(dataset.batches), place)


def evaluate(run: Run, split: str = "test") -> dict[str, float]:
    """The metrics of a run's state on a split of its experiment.

    Raises `UsageError` where the experiment has no such split.
    """
    placed: Any = run.state.step.sharding  # where the run is, which need not be its own mesh
    evaluator = Evaluator(run.experiment, placed.mesh)
    return evaluator(evaluation_variables(run.state), split)


def predict(run: Run, split: str = "test", count: int = 8) -> tuple[Examples, Examples]:
    """The first `count` examples of a split, and what the task predicts for them.

    Raises `UsageError` where the task predicts nothing, or `count` is below 1.
    """
    task = run.experiment.task
    if not hasattr(task, "predict"):
        raise UsageError(f"task {type(task).__name__} predicts nothing; evaluate the run instead")
    if count < 1:
        raise UsageError(f"count={count} must be at least 1")
    dataset = run.experiment.evaluation_dataset(split)
    indices = np.arange(min(count, len(dataset)))
    examples = dataset.source.gather(indices)
    predictions = jax.jit(task.predict)(evaluation_variables(run.state), examples)
    return examples, jax.device_get(predictions)


def translations(run: Run, split: str = "test", beams: int = 4) -> list[str]:
    """What a run makes of every source of a split, in their order, as texts.

    Sources of like length are searched together, for at most twice as many tokens, and no more than
    the targets of the split have.
    Raises `UsageError` where the run does not translate, or its data has no texts.
    """
    task = run.experiment.task
    if not hasattr(task, "translate"):
        raise UsageError(f"task {type(task).__name__} translates nothing; evaluate without beams")
    pairs = _pairs(run, split)
    sources = [pairs.encode_source(pair.source, pair.language) for pair in pairs.pairs]
    lengths = np.array([len(source) for source in sources])
    order = np.argsort(lengths, kind="stable")
    size = min(run.experiment.evaluation_batch_size, len(order))
    translate = jax.jit(task.translate, static_argnames=("count", "beams"))
    variables, texts = evaluation_variables(run.state), [""] * len(order)
    longest = pairs.lengths[1]
    for begin in range(0, len(order), size):
        rows = order[begin : begin + size]
        # Rounded up so that batches share a program, but never beyond what the model has read.
        width = min(-(-int(lengths[rows[-1]]) // BUCKET) * BUCKET, pairs.lengths[0])
        # A last batch that is too small repeats its rows: its program is there already.
        batch = padded([sources[row] for row in np.resize(rows, size)], width)
        count = min(2 * width, longest)
        found = jax.device_get(translate(variables, batch, count=count, beams=beams))
        for row, tokens in zip(rows, found, strict=False):
            texts[row] = pairs.target_vocabulary.decode(tokens)
    return texts


def text_scores(run: Run, split: str, texts: Sequence[str]) -> dict[str, float]:
    """The texts of `translations` against the references of the split.

    `bleu` and `chrf` (0 to 100), of several languages also by each of them, as `bleu_de`; or for
    symbols, which may have several references, `error_rate` and `exact_match` (0 to 1).
    """
    pairs = _pairs(run, split)
    if isinstance(pairs.target_vocabulary, Symbols):
        means = {
            "error_rate": error_rate(texts, pairs.references, words=True),
            "exact_match": exact_match(texts, pairs.references),
        }
        return values(means)
    first = [references[0] for references in pairs.references]
    scores = {"bleu": bleu(texts, first), "chrf": chrf(texts, first)}
    languages = [pair.language for pair in pairs.pairs]
    if len(names := sorted(set(languages))) > 1:
        for name in names:
            rows = [row for row, language in enumerate(languages) if language == name]
            found, right = [texts[row] for row in rows], [first[row] for row in rows]
            scores |= {f"bleu_{name}": bleu(found, right), f"chrf_{name}": chrf(found, right)}
    return scores


def text_examples(
    run: Run, split: str, texts: Sequence[str], count: int = 3
) -> list[dict[str, str]]:
    """`source`, `reference` and `translation` of at most `count` pairs, evenly spaced.

    `texts` are the `translations` of the split.
    """
    pairs = _pairs(run, split).pairs
    places = range(0, len(pairs), max(1, len(pairs) // count))[:count]
    return [
        {"source": pairs[i].source, "reference": pairs[i].target, "translation": texts[i]}
        for i in places
    ]


def shown(examples: Sequence[Mapping[str, str]]) -> str:
    """Examples of texts for people: a line for each text, an empty line ahead of each example."""
    lines = []
    for example in examples:
        lines += ["", *(f"{name:<24} {text}" for name, text in example.items())]
    return "\n".join(lines)


def _pairs(run: Run, split: str) -> Pairs:
    source = run.experiment.evaluation_dataset(split).source
    if not isinstance(source, Pairs):
        raise UsageError(
            f"split '{split}' is {type(source).__name__}, without texts to compare; use Pairs"
        )
    return source


def _knows_bytes(source: Source) -> bool:
    """Whether a source tells its bytes a token, which it may count at the first question only."""
    return hasattr(type(source), "bytes_per_token")


def values(metrics: Mapping[str, Mean]) -> dict[str, float]:
    """Means as they are reported; one transfer, which waits for the computation.

    A mean over nothing is NaN, which is never the best.
    """
    fetched = jax.device_get(dict(metrics))
    return {
        name: mean.shown(float(mean.total / mean.weight)) if mean.weight > 0 else math.nan
        for name, mean in fetched.items()
    }
