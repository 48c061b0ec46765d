"""Samples in batches, interpolations and paths, and the pictures that a run leaves behind."""

from __future__ import annotations

import dataclasses
import pathlib
import sys

import generators
import jax
import numpy as np
import pytest
from PIL import Image
from test_train import At, terminate

import deeplearn
from deeplearn import Run, generation, train
from deeplearn.data.gaussians import Gaussians
from deeplearn.data.moving_digits import MovingDigits
from deeplearn.errors import Preempted, UsageError
from deeplearn.generation import columns, denoising_path, generate, interpolations, overview
from deeplearn.models.denoiser import MLPDenoiser
from deeplearn.processes import VarianceExploding
from deeplearn.program import Program
from deeplearn.report.images import Gallery
from deeplearn.report.receipt import state_sha256
from deeplearn.sampling.images import Request
from deeplearn.step import evaluation_variables
from deeplearn.tasks.classification import Classification
from deeplearn.tasks.denoising import Denoising
from experiments import launch


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory) -> Run:
    return train(generators.diffusion(), tmp_path_factory.mktemp("diffusion"))


@pytest.fixture(scope="module")
def gan(tmp_path_factory) -> Run:
    return train(generators.gan(), tmp_path_factory.mktemp("gan"))


@pytest.fixture(scope="module")
def points(tmp_path_factory) -> Run:
    task = Denoising(MLPDenoiser(8, 1, classes=8), VarianceExploding())
    experiment = generators.diffusion(steps=2)
    data = Gaussians("ring", 50)
    experiment = dataclasses.replace(experiment, task=task, train=data, evaluation={})
    return train(experiment, tmp_path_factory.mktemp("points"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Run:
    """Ahead of the first step."""
    task = Denoising(generators.Cleaner(classes=0), VarianceExploding())
    data = MovingDigits(size=20, frames=3, side=8, count=1, scale=1)
    experiment = generators.diffusion()
    experiment = dataclasses.replace(experiment, task=task, train=data, evaluation={})
    return Run(experiment, Program(experiment).init(), {}, tmp_path_factory.mktemp("clips"))


def drawn_by(run):
    return run.experiment, evaluation_variables(run.state)


def test_a_large_number_is_drawn_in_batches_with_the_classes_in_turn(gan, key):
    """45 in batches of 20: labels go on across their borders, and every batch has its own noise."""
    experiment, variables = drawn_by(gan)
    calls = []

    class Counting(type(experiment.task)):
        def sample(self, variables, rng, request):
            calls.append(request)
            return super().sample(variables, rng, request)

    fields = {f.name: getattr(experiment.task, f.name) for f in dataclasses.fields(experiment.task)}
    counted = dataclasses.replace(experiment, task=Counting(**fields))
    x = generate(counted, variables, Request(45, labels=(2, 0, 1, 1)), key)
    assert x.shape == (45, 8, 8, 1) and x.dtype == np.float32
    assert [request.count for request in calls] == [20, 20, 20]
    labels = np.concatenate([request.class_of() for request in calls])[:45]
    np.testing.assert_array_equal(labels, np.resize([2, 0, 1, 1], 45))
    assert len(np.unique(x.reshape(45, -1), axis=0)) == 45
    np.testing.assert_array_equal(x, generate(counted, variables, Request(45, (2, 0, 1, 1)), key))


@pytest.mark.parametrize("name", ["gan", "diffusion"])
def test_a_row_of_interpolations_goes_from_one_sample_to_another(name, request, key):
    experiment, variables = drawn_by(request.getfixturevalue(name))
    x = interpolations(experiment, variables, overview(experiment), key)
    assert x.shape == (8, 8, 8, 8, 1)
    steps = np.abs(np.diff(x, axis=1)).mean(axis=(2, 3, 4))
    whole = np.abs(x[:, -1] - x[:, 0]).mean(axis=(1, 2, 3))
    assert (steps.max(axis=1) < 0.6 * whole).all()


@pytest.mark.parametrize(("sampler", "count"), [("ddpm", 6), ("heun", 25)])
def test_a_path_ends_in_the_first_samples_of_the_same_key(diffusion, key, sampler, count):
    """Of 45 in batches of 20, whether less than one batch is shown or more."""
    experiment, variables = drawn_by(diffusion)
    request = Request(45, labels=(0, 1), sampler=sampler, steps=5)
    few = dataclasses.replace(request, count=count)
    path = denoising_path(experiment, variables, few, key)
    assert path.shape == (5, count, 8, 8, 1)
    first = generate(experiment, variables, request, key)[:count]
    np.testing.assert_allclose(path[-1], first, rtol=1e-4, atol=1e-5)


def test_an_overview_has_a_column_for_each_class_unless_they_are_many(gan):
    request = overview(gan.experiment)
    assert (request.count, request.labels, columns(request)) == (24, (0, 1, 2), 3)
    found = [columns(Request(labels=tuple(range(classes)))) for classes in (0, 1, 10, 17, 1000)]
    assert found == [8, 8, 10, 8, 8]


def test_a_classifier_draws_nothing(gan, key):
    wrong = dataclasses.replace(gan.experiment, task=Classification(generators.Painter()))
    with pytest.raises(UsageError, match="its task Classification draws no examples"):
        generate(wrong, {}, Request(2), key)


def test_pictures_are_drawn_at_every_evaluation_and_change_nothing(
    diffusion, tmp_path, monkeypatch
):
    """A run that draws nothing up to step 2, stops there, and goes on drawing: the same bits."""
    samples = diffusion.workdir / "samples"
    assert {path.name for path in samples.iterdir()} == {"step_00000002.png", "step_00000004.png"}
    with monkeypatch.context() as patch, pytest.raises(Preempted):
        patch.setattr(Gallery, "can_show", staticmethod(lambda source: False))
        train(diffusion.experiment, tmp_path, hooks=[At(2, terminate)])
    assert not (tmp_path / "samples").exists()
    resumed = train(diffusion.experiment, tmp_path)
    assert state_sha256(resumed.state) == state_sha256(diffusion.state)
    for name in ("metrics.jsonl", "samples/step_00000004.png"):
        assert (tmp_path / name).read_bytes() == (diffusion.workdir / name).read_bytes()
    assert (samples / "step_00000002.png").read_bytes() != (
        samples / "step_00000004.png"
    ).read_bytes()


def test_pictures_of_two_states_are_of_the_same_noise(diffusion):
    """Nothing is learned between the two: only the picture of another noise would differ."""
    experiment, variables = drawn_by(diffusion)
    x = generate(experiment, variables, overview(experiment), jax.random.key(0))
    path = Gallery(experiment.train, diffusion.workdir / "again").save("same", x, 3)
    assert path.read_bytes() == (diffusion.workdir / "samples/step_00000004.png").read_bytes()


@pytest.fixture
def sample(monkeypatch, capsys):
    """A function that samples from a run: run, flags → (exit code, stdout, stderr)."""

    def sample(run: Run, *words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(deeplearn, "load", lambda workdir: run)
        monkeypatch.setattr(sys, "argv", ["launch", "sample", "--workdir=x", *words])
        capsys.readouterr()  # of the training, where this test is the first to ask for the run
        return launch.main(), *capsys.readouterr()

    return sample


def test_samples_of_a_gan_are_written_and_named(gan, sample):
    code, out, err = sample(gan)
    samples = gan.workdir / "samples"
    assert (code, err) == (0, "")
    assert out.split() == [str(samples / "samples.png"), str(samples / "interpolation.png")]
    first = (samples / "samples.png").read_bytes()
    sample(gan, "--seed=3", "--label=1", "--count=5")
    other = samples / "samples_count=5_label=1_seed=3.png"
    assert other.read_bytes() != first == (samples / "samples.png").read_bytes()


def test_samples_of_diffusion_come_with_the_way_there(diffusion, sample):
    words = ["--steps=3", "--sampler=heun", "--guidance=2", "--label=0", "--count=4"]
    words.append("--guidance_interval=0.1,2")
    code, out, err = sample(diffusion, *words)
    suffix = "_count=4_label=0_guidance=2.0_guidance_interval=0.1,2_sampler=heun_steps=3"
    names = (f"samples{suffix}.png", f"interpolation{suffix}.png", f"denoising{suffix}.gif")
    assert (code, err) == (0, "")
    assert out.split() == [str(diffusion.workdir / "samples" / name) for name in names]


@pytest.mark.parametrize(
    ("name", "fields"),
    [("gan", {}), ("diffusion", {"sampler": "heun", "steps": 3, "guidance": 9.0})],
)
def test_samples_are_of_the_averaged_parameters_and_as_asked(name, fields, request, sample):
    run = request.getfixturevalue(name)
    code, out, _ = sample(run, *(f"--{field}={value}" for field, value in fields.items()))
    written = pathlib.Path(out.split()[0]).read_bytes()
    gallery = Gallery(run.experiment.train, run.workdir / "expected")
    asked = dataclasses.replace(overview(run.experiment), **fields)

    def picture(variables, asked):
        x = generate(run.experiment, variables, asked, jax.random.key(0))
        return gallery.save("x", x, 3).read_bytes()

    assert code == 0 and written == picture(evaluation_variables(run.state), asked)
    raw = {**run.state.collections, "params": run.state.params}
    assert written != picture(raw, asked)
    for field in fields:
        default = getattr(overview(run.experiment), field)
        other = dataclasses.replace(asked, **{field: default})
        assert written != picture(evaluation_variables(run.state), other)


@pytest.mark.parametrize(("word", "labels"), [("0,2", (0, 2)), ("none", ())])
def test_several_classes_are_drawn_in_turn_and_none_without_a_label(
    diffusion, sample, monkeypatch, word, labels
):
    asked = []

    def drawn(experiment, variables, request, rng):
        asked.append(request)
        return np.zeros((request.count, 8, 8, 1))

    monkeypatch.setattr(generation, "generate", drawn)
    code, out, _ = sample(diffusion, f"--label={word}", "--steps=2", "--count=4")
    assert code == 0 and f"samples_count=4_label={word}_steps=2.png" in out
    assert asked == [Request(4, labels, (8, 8, 1), steps=2)]


def test_points_are_drawn_as_points(points, sample):
    code, out, err = sample(points, "--steps=3")
    names = ("samples_steps=3.png", "denoising_steps=3.gif")
    assert (code, err) == (0, "")
    assert out.split() == [str(points.workdir / "samples" / name) for name in names]


def test_clips_move(clips, sample):
    """The way to a clip would be a film of films: it is left out."""
    code, out, err = sample(clips, "--steps=2", "--count=4")
    paths = [
        clips.workdir / "samples" / f"{name}_count=4_steps=2.gif"
        for name in ("samples", "interpolation")
    ]
    assert (code, err) == (0, "")
    assert out.split() == list(map(str, paths))
    for path in paths:
        assert Image.open(path).n_frames == 3


@pytest.mark.parametrize(
    ("name", "words", "wanted"),
    [
        ("gan", ["--guidance=2"], "guidance=2.0 is for diffusion"),
        ("gan", ["--label=3"], "label 3 is outside [0, 2]"),
        ("gan", ["--label=0,99999999999"], "label 99999999999 is outside [0, 2]"),
        ("gan", ["--label=all"], "label=all is not a list of classes"),
        ("gan", ["--label=none"], "every image has a class; give labels"),
        ("points", ["--label=none"], "nothing without a label; give labels"),
        ("diffusion", ["--label=none", "--guidance=2"], "guidance=2.0 needs a label"),
        ("gan", ["--prompt=a"], "no use for --prompt: the task of this run is Adversarial"),
        ("diffusion", ["--sampler=hoin"], "unknown sampler 'hoin'"),
        ("diffusion", ["--steps=0"], "steps=0 must be 1 or more"),
        ("diffusion", ["--guidance_interval=3"], "guidance_interval=3 is not two numbers"),
        ("diffusion", ["--guidance_interval=3,1"], "(3.0, 1.0) must be a tuple of two"),
        ("diffusion", ["--guidance_interval=1,3"], "guidance=1 is none"),
        ("gan", ["--guidance_interval=1,3"], "guidance_interval=(1.0, 3.0) is for diffusion"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(name, words, wanted, request, sample):
    code, out, err = sample(request.getfixturevalue(name), *words)
    assert code == 2 and not out and wanted in err and err.count("\n") == 1
