"""Evaluation counts every example once, whatever the batches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from mixers import MODELS

import deeplearn
from deeplearn.data.corpus import Documents, TextPairs
from deeplearn.data.memory import Arrays
from deeplearn.data.pairs import Pairs
from deeplearn.data.subwords import LearnedBPE
from deeplearn.data.text import Packed
from deeplearn.data.vocabulary import SPECIALS, Characters, Symbols
from deeplearn.errors import DataError, UsageError
from deeplearn.evaluate import Evaluator, predict, text_examples, text_scores, translations
from deeplearn.experiment import Experiment
from deeplearn.models.encoder_decoder import lstm_encoder_decoder
from deeplearn.models.mlp import MLP
from deeplearn.optimizers import AdamW
from deeplearn.program import Program
from deeplearn.sharding import make_mesh
from deeplearn.step import evaluation_variables
from deeplearn.tasks.classification import Classification
from deeplearn.tasks.language import Language
from deeplearn.tasks.translation import Translation
from deeplearn.train import Run
from deeplearn.types import Mean
from experiments import launch

ROWS = 23


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    generator = np.random.default_rng(0)
    data = Arrays(
        {
            "x": generator.normal(size=(ROWS, 5)).astype(np.float32),
            "label": generator.integers(0, 3, ROWS),
        }
    )
    experiment = Experiment(
        name="example",
        task=Classification(MLP(hidden=(8,), outputs=3)),
        train=data,
        evaluation={"test": data},
        optimizer=AdamW(),
        steps=1,
        batch_size=4,
    )
    return Run(experiment, Program(experiment).init(), {}, tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("size", [1, 5, 22, 23, 500])
def test_the_batch_size_does_not_change_the_mean(run, size):
    examples = run.experiment.evaluation["test"].gather(np.arange(ROWS))
    variables = evaluation_variables(run.state)
    logits = run.experiment.task.model.apply(variables, examples["x"])
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    labels = examples["label"]
    experiment = dataclasses.replace(run.experiment, evaluation_batch_size=size)
    found = Evaluator(experiment, make_mesh(experiment.mesh))(variables, "test")
    np.testing.assert_allclose(found["loss"], -log_p[np.arange(ROWS), labels].mean(), rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], (log_p.argmax(-1) == labels).mean(), rtol=1e-6)


def test_a_bad_label_is_refused_in_evaluation_too(run):
    bad = Arrays({"x": np.zeros((2, 5), np.float32), "label": np.array([0, 3])})
    experiment = dataclasses.replace(run.experiment, evaluation={"test": bad})
    with pytest.raises(DataError, match="^split 'test': batch 0: field 'label' in row 1 of the"):
        Evaluator(experiment, make_mesh(experiment.mesh))(evaluation_variables(run.state), "test")


def test_a_mean_over_nothing_is_not_a_number(run):
    """As 0 it would be the best loss there is."""
    fields = {"x": np.zeros((2, 5), np.float32), "label": np.zeros(2, int), "mask": np.zeros(2)}
    experiment = dataclasses.replace(run.experiment, evaluation={"test": Arrays(fields)})
    evaluator = Evaluator(experiment, make_mesh(experiment.mesh))
    assert np.isnan(evaluator(evaluation_variables(run.state), "test")["loss"])


def test_predictions_stand_beside_their_examples(run):
    examples, predicted = predict(run, "test", 3)
    variables = evaluation_variables(run.state)
    logits = run.experiment.task.model.apply(variables, examples["x"])
    np.testing.assert_array_equal(predicted["label"], np.argmax(logits, -1))
    assert len(examples["label"]) == 3
    assert len(predict(run, "test", 99)[1]["label"]) == ROWS
    with pytest.raises(UsageError, match="count=0"):
        predict(run, "test", 0)


@dataclasses.dataclass(frozen=True)
class Certain(Language):
    """Gives every token e⁻³."""

    def evaluate(self, variables, batch):
        return {"loss": Mean.of(jnp.full(batch["tokens"].shape, 3.0))}


def test_subwords_are_compared_by_the_bytes_of_the_split(run):
    corpus = Documents(["an ant and an apple " * 3, "añañá"])
    subwords = Packed(corpus, "all", 8, LearnedBPE(corpus, 260))
    arrays = Arrays({"tokens": np.ones((2, 9), np.int32)})
    task = Certain(MODELS["rnn"]().copy(vocabulary=260))
    experiment = dataclasses.replace(
        run.experiment, task=task, evaluation={"texts": subwords, "tokens": arrays}
    )
    evaluator = Evaluator(experiment, make_mesh(experiment.mesh))
    tokens = sum(len(subwords.vocabulary.encode(text)) for text in corpus.texts("all"))
    expected = 3 / np.log(2) * tokens / (60 + 8)
    assert tokens < 60 + 8
    assert evaluator({}, "texts") == {"loss": 3, "bits_per_byte": pytest.approx(expected)}
    assert evaluator({}, "tokens") == {"loss": 3}


LETTERS = "abcd"
WORDS = ["a", "bd", "cab", "dddd", "abcdabcdabcdabcdabcdabcdabcdabcdabcd"]


@pytest.fixture(scope="module", params=["texts", "symbols"])
def translating(request, tmp_path_factory):
    """A run whose `translate` copies its source, read by a target vocabulary in capitals."""
    targets = [word.upper() for word in WORDS]
    target_vocabulary = Characters(LETTERS.upper(), SPECIALS)
    if request.param == "symbols":
        targets = [" ".join(word) for word in targets]
        target_vocabulary = Symbols(tuple(LETTERS.upper()), SPECIALS)
    # The fourth target is wrong in one of its four letters.
    targets[3] = targets[3].replace("D", "A", 1)
    corpus = TextPairs(tuple(zip(WORDS, targets, strict=True)))
    data = Pairs(corpus, "all", Characters(LETTERS, SPECIALS), target_vocabulary, 40, 40)
    experiment = Experiment(
        name=request.param,
        task=Copying(),
        train=data,
        evaluation={"test": data},
        optimizer=AdamW(),
        steps=1,
        batch_size=2,
        evaluation_batch_size=2,
    )
    state = dataclasses.replace(Program(experiment).init(), params={})
    return Run(experiment, state, {}, tmp_path_factory.mktemp("run"))


@dataclasses.dataclass(frozen=True)
class Copying(Translation):
    """Translates by copying."""

    model: nn.Module = lstm_encoder_decoder(7, 7, width=4, depth=1)

    def translate(self, variables, source, count, beams=1, length_penalty=0.6):
        assert beams == 3
        assert source.shape[1] <= 40, "longer than any source that the model was trained on"
        return source


def test_translations_come_in_the_order_of_the_split(translating):
    texts = translations(translating, "test", beams=3)
    assert [text.replace(" ", "").lower() for text in texts] == WORDS


def test_texts_are_scored_by_the_kind_of_their_vocabulary(translating):
    scores = text_scores(translating, "test", translations(translating, "test", beams=3))
    if translating.experiment.name == "symbols":
        assert set(scores) == {"error_rate", "exact_match"}
        assert scores["error_rate"] == pytest.approx(1 / sum(map(len, WORDS)))
        assert scores["exact_match"] == pytest.approx(0.8)
    else:
        assert set(scores) == {"bleu", "chrf"} and 80 < scores["chrf"] < 100


def test_each_language_has_scores_of_its_own(run):
    letters = Characters(LETTERS, SPECIALS)
    corpus = TextPairs(tuple(zip(WORDS, WORDS, ["xy", "z", "xy", "xy", "z"], strict=True)))
    data = Pairs(corpus, "all", letters, letters, 40, 40)
    experiment = dataclasses.replace(run.experiment, evaluation={"test": data})
    texts = [*WORDS[:1], "c", *WORDS[2:]]
    scores = text_scores(Run(experiment, run.state, {}, run.workdir), "test", texts)
    assert set(scores) == {f"{name}{of}" for name in ("bleu", "chrf") for of in ("", "_xy", "_z")}
    assert scores["chrf_xy"] == 100 > scores["chrf"] > scores["chrf_z"]


def test_scores_are_told_with_three_texts_beside_their_references(translating, monkeypatch, capsys):
    monkeypatch.setattr(deeplearn, "load", lambda workdir: translating)
    monkeypatch.setattr(deeplearn, "evaluate", lambda run, split: {"loss": 0.5})
    assert launch.run(["evaluate", "--workdir=x", "--beams=3"]) == 0
    scores, *told = capsys.readouterr().out.strip().split("\n\n")
    assert scores.split()[0] == "test/loss" and len(scores.splitlines()) == 3
    texts = [[line.split(maxsplit=1) for line in text.splitlines()] for text in told]
    assert [text[0] for text in texts] == [["source", word] for word in WORDS[:3]]
    for _, (_, reference), (name, translation) in texts:
        assert name == "translation" and translation == reference


def test_examples_are_spread_over_the_split(translating):
    texts = list("vwxyz")
    found = text_examples(translating, "test", texts, 2)
    assert [(example["source"], example["translation"]) for example in found] == [
        (WORDS[0], "v"),
        (WORDS[2], "x"),
    ]
    assert len(text_examples(translating, "test", texts, 99)) == len(WORDS)


def test_what_does_not_translate_is_refused(run, translating):
    with pytest.raises(UsageError, match="task Classification translates nothing"):
        translations(run)
    bare = dataclasses.replace(translating.experiment, evaluation={"test": run.experiment.train})
    other = Run(bare, translating.state, {}, translating.workdir)
    for scored in (lambda: translations(other), lambda: text_scores(other, "test", [])):
        with pytest.raises(UsageError, match="split 'test' is Arrays, without texts"):
            scored()
