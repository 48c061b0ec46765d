"""The mode `sample` of the command line for a task that writes."""

from __future__ import annotations

import dataclasses
import sys

import jax
import numpy as np
import pytest
from mixers import MODELS

import deeplearn
from deeplearn import Experiment, Run, train
from deeplearn.data.corpus import Text, TextPairs
from deeplearn.data.memory import Arrays
from deeplearn.data.pairs import Pairs
from deeplearn.data.text import Windows
from deeplearn.data.vocabulary import END, SPECIALS, Characters
from deeplearn.models.encoder_decoder import transformer_encoder_decoder
from deeplearn.optimizers import SGD
from deeplearn.sampling.autoregressive import generate
from deeplearn.sampling.sampler import Sampler
from deeplearn.step import evaluation_variables
from deeplearn.tasks.language import Language
from deeplearn.tasks.translation import Translation
from experiments import launch

LETTERS = "\nabcdefghijklmnopqrstuvwxyz"
VOCABULARY = Characters(LETTERS, specials=(END,))
PAIRS = [(word, word[::-1], language) for word in ("to", "be", "or", "not") for language in "xy"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    data = Windows(Text("to be or not to be\n".replace(" ", "") * 9), "all", 8, 1, VOCABULARY)
    task = Language(MODELS["attention"]().copy(vocabulary=VOCABULARY.size, max_length=64))
    experiment = Experiment("text", task, data, SGD(0.1), steps=1, batch_size=4)
    return train(experiment, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def translator(tmp_path_factory) -> Run:
    names = Characters(LETTERS, specials=(*SPECIALS, "<x>", "<y>"))
    data = Pairs(TextPairs(PAIRS), "all", names, names, 8, 6, language_token=True)
    model = transformer_encoder_decoder(names.size, names.size, 16, 1, 2, 16)
    experiment = Experiment("pairs", Translation(model), data, SGD(0.1), steps=1, batch_size=4)
    return train(experiment, tmp_path_factory.mktemp("run"))


@pytest.fixture
def sample(run, monkeypatch, capsys):
    """A function that samples from a run: flags → (exit code, stdout, stderr)."""

    def sample(*words: str, run: Run = run) -> tuple[int, str, str]:
        monkeypatch.setattr(deeplearn, "load", lambda workdir: run)
        monkeypatch.setattr(sys, "argv", ["launch", "sample", "--workdir=x", *words])
        return launch.main(), *capsys.readouterr()

    return sample


def test_a_prompt_is_continued(run, sample):
    code, out, err = sample("--prompt=tobe", "--count=20", "--top_k=5", "--seed=3")
    assert code == 0 and not err
    tokens = generate(
        run.experiment.task.model,
        evaluation_variables(run.state),
        [VOCABULARY.encode("tobe")],
        Sampler(20, top_k=5, stop=(0,)),
        jax.random.key(3),
    )[0]
    wanted = tokens[: [*tokens, 0].index(0)]
    assert out == "tobe" + VOCABULARY.decode(wanted) + "\n"
    assert sample("--prompt=tobe", "--count=20", "--top_k=5", "--seed=4")[1] != out
    greedy = {
        sample("--prompt=tobe", "--temperature=0", f"--seed={seed}", "--count=20")[1]
        for seed in (3, 4)
    }
    assert len(greedy) == 1


def test_every_flag_reaches_the_sampler(sample, monkeypatch):
    asked = []

    def written(task, variables, rng, request):
        asked.append(request.sampler)
        return iter([])

    monkeypatch.setattr(Language, "sample", written)
    flags = "--count=7 --temperature=0.5 --top_k=3 --top_p=0.9 --min_p=0.1 --repetition_penalty=1.2"
    assert sample("--prompt=tobe", *flags.split())[:2] == (0, "tobe\n")
    assert asked == [Sampler(7, 0.5, 3, 0.9, 0.1, 1.2, stop=(0,))]


def test_a_text_ends_what_is_written(sample):
    flags = ("--prompt=tobe", "--count=20", "--seed=3")
    whole = sample(*flags)[1]
    # It is in the prompt as well, and two tokens long.
    stop = whole[7:9]
    cut = whole.index(stop, 4)
    assert sample(*flags, f"--stop={stop}")[:2] == (0, whole[:cut] + "\n")


def test_without_a_count_the_text_fills_the_places_of_the_model(sample):
    code, out, err = sample("--prompt=tobe", "--temperature=0")
    assert code == 0 and not err
    assert out == sample("--prompt=tobe", "--temperature=0", "--count=60")[1]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], "sample needs --prompt=TEXT"),
        (["--prompt="], "prompt 0 is empty"),
        (["--prompt=ab", "--split=test"], "no use for --split: the task of this run is Language"),
        (["--prompt=ab", "--stop="], "--stop= is empty"),
        (["--prompt=ab", "--beams=2"], "no use for --beams: the task of this run is Language"),
        (["--prompt=ab", "--count=63"], "count=63 exceed max_length=64"),
        (["--prompt=ab", "--temperature=-1"], "temperature=-1.0 must be"),
        (["--prompt=ab", "--seed=4294967296"], "--seed=4294967296 must be in [0, 2³²)"),
    ],
)
def test_what_cannot_be_written_is_refused(sample, words, wanted):
    code, out, err = sample(*words)
    assert code == 2 and not out and wanted in err and err.count("\n") == 1


def test_a_run_without_texts_is_not_asked_for_a_prompt(run, sample):
    arrays = Arrays({"tokens": np.zeros((8, 9), np.int32)})
    wordless = dataclasses.replace(
        run, experiment=dataclasses.replace(run.experiment, train=arrays)
    )
    code, out, err = sample(run=wordless)
    assert code == 2 and not out and err.count("\n") == 1
    assert "no vocabulary; call Language.sample in Python" in err


def test_a_character_outside_the_vocabulary_is_named(sample):
    code, _, err = sample("--prompt=a#")
    assert code == 3 and "'#'" in err


def test_a_text_is_translated(translator, sample):
    code, out, err = sample("--text=not", "--to=x", "--count=5", run=translator)
    assert code == 0 and not err
    pairs, task = translator.experiment.train, translator.experiment.task
    variables, source = evaluation_variables(translator.state), pairs.encode_source("not", "x")
    tokens = jax.jit(task.translate, static_argnums=(2, 3))(variables, source[None], 5, 4)
    assert out == pairs.target_vocabulary.decode(jax.device_get(tokens)[0]) + "\n"


def test_hypotheses_are_as_many_as_asked(translator, sample, monkeypatch):
    seen = []

    def translate(task, variables, source, count, beams):
        seen.append(beams)
        return source

    monkeypatch.setattr(Translation, "translate", translate)
    for flags in ((), ("--beams=1",)):
        assert sample("--text=not", "--to=x", *flags, run=translator)[:2] == (0, "not\n")
    assert seen == [4, 1]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], "sample needs --text=TEXT"),
        (["--text=not"], "sample needs --to, one of: x, y"),
        (["--text=not", "--to=z"], "'<z>'"),
        (["--text=not", "--to=x", "--beams=0"], "beams=0 and count=6 must be 1 or more"),
        (["--text=not", "--to=x", "--top_k=3"], "no use for --top_k: the task of this run is"),
    ],
)
def test_what_cannot_be_translated_is_refused(translator, sample, words, wanted):
    code, out, err = sample(*words, run=translator)
    assert code == 2 and not out and wanted in err and err.count("\n") == 1
