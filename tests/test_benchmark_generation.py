"""The measure of generated images: its references, and what it says of good and of bad models."""

from __future__ import annotations

import copy
import dataclasses
import sys

import generators
import numpy as np
import pytest
from families import images

from benchmarks import generation, image_sets
from deeplearn import Experiment, Run, train
from deeplearn.errors import UsageError
from deeplearn.features import Features
from deeplearn.generation import overview
from deeplearn.generative_metrics import kernel_distance
from deeplearn.models.mlp import MLP
from deeplearn.optimizers import Adam
from deeplearn.processes import Cosine
from deeplearn.program import Program
from deeplearn.sampling.images import Request
from deeplearn.tasks.adversarial import Adversarial
from deeplearn.tasks.classification import Classification

DATA, TEST = images(60, 8), images(40, 8)


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory) -> tuple[Features, Features]:
    """Two perceptrons of one layer that tell the three classes, each of a seed of its own."""

    def trained(width, seed):
        task = Classification(MLP(hidden=(width,), outputs=3))
        fields = {"batch_size": 20, "steps_per_call": 30, "log_every": 60, "evaluate_every": 60}
        data = {"test": TEST}
        experiment = Experiment(
            f"mlp{width}", task, DATA, Adam(0.01), 60, data, save_every=60, seed=seed, **fields
        )
        return Features(train(experiment, tmp_path_factory.mktemp("classifier")))

    return trained(16, 0), trained(12, 1)


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory) -> Run:
    experiment = generators.diffusion(
        steps=800, steps_per_call=100, log_every=800, evaluate_every=800, save_every=800
    )
    return train(experiment, tmp_path_factory.mktemp("diffusion"))


def measured(run, classifiers, count=60, **options):
    """The result of so many samples; of few solver steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "SOLVER_COUNT", 60)
        patch.setattr(generation, "MANY_STEPS", 60)
        request = dataclasses.replace(overview(run.experiment), count=count, **options)
        return generation.measure(run, *classifiers, request)


@pytest.fixture(scope="module")
def result(diffusion, classifiers):
    return measured(diffusion, classifiers)


def test_training_images_are_the_floor_and_the_rest_lies_above(result):
    found = {name: each["frechet"] for name, each in result["distances"].items()}
    assert found["training_images"] < found["samples"] < found["untrained_model"]
    assert found["training_images"] < found["class_means_with_noise"]
    assert found["training_images"] < found["blurred"]
    assert result["frechet_over_floor"] > 1
    # All of the few training images are in every draw.
    assert result["floor"]["values"] == pytest.approx([found["training_images"]] * 5)


def test_the_judge_recognizes_the_classes_that_were_asked_for(result):
    share = result["recognized"]["share"]
    assert 0.8 < share <= 1 and set(result["recognized"]["by_class"]) == {0, 1, 2}
    asked = image_sets.independent(Request(60, labels=(0, 1, 2)), 0).class_of()
    by_class = list(result["recognized"]["by_class"].values())
    assert np.average(by_class, weights=np.bincount(asked)) == pytest.approx(share)
    wrong = generation.recognized(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 2]))
    assert wrong["share"] == 0.5 and wrong["by_class"] == {0: 0.5, 1: 1.0, 2: 0.0}


@pytest.mark.parametrize("classes", [3, None])
def test_a_gan_has_no_solvers_and_is_recognized_where_it_has_classes(
    classes, classifiers, tmp_path
):
    """An untrained one, whose samples are then those of the untrained model to the bit."""
    players = generators.Painter(classes), generators.Critic(classes)
    task = Adversarial(*players, latent=4, conditional=classes is not None)
    experiment = dataclasses.replace(generators.gan(), task=task)
    run = Run(experiment, Program(experiment).init(), {}, tmp_path)
    request = dataclasses.replace(overview(experiment), count=60)
    found = generation.measure(run, *classifiers, request)
    assert found["request"]["sampler"] is None and "solvers" not in found
    distances = found["distances"]
    assert distances["samples"] == distances["untrained_model"]
    assert distances["training_images"]["frechet"] < distances["samples"]["frechet"]
    for name in ("recognized", "support_by_class"):
        assert (name in found) == (classes is not None)


def test_every_number_stands_beside_the_names_of_the_classifiers(result, classifiers):
    for role, classifier in zip(("features", "judge"), classifiers, strict=True):
        assert result[role]["sha256"] == classifier.sha256
        assert result[role]["test_accuracy"] > 0.9
        assert (result[role]["model"], result[role]["overrides"]) == ("MLP", [])
    assert (result["features"]["seed"], result["judge"]["seed"]) == (0, 1)
    assert result["features"]["width"] == 16
    assert (result["request"]["sampler"], result["request"]["steps"]) == ("dpm_solver_2m", 20)


def test_a_fast_solver_is_held_against_a_slow_one(result):
    found = result["solvers"]
    assert set(found) == {"count", "ddim_60", "dpm_solver_2m_15", "dpm_solver_2m_20"}
    for steps in (15, 20):
        each = found[f"dpm_solver_2m_{steps}"]
        value, error = each["difference"]["value"], each["difference"]["standard_error"]
        assert value == pytest.approx(each["value"] - found["ddim_60"]["value"])
        assert each["within_two_standard_errors"] == (abs(value) <= 2 * error)


@pytest.mark.parametrize(
    ("steps", "solvers"),
    [
        (10, {"ddim_10", "dpm_solver_2m_10"}),
        (18, {"ddim_18", "dpm_solver_2m_15", "dpm_solver_2m_18"}),
    ],
)
def test_solvers_take_no_more_steps_than_a_process_has(
    steps, solvers, diffusion, classifiers, tmp_path
):
    experiment = diffusion.experiment
    task = dataclasses.replace(experiment.task, process=Cosine(steps=steps))
    experiment = dataclasses.replace(experiment, task=task)
    run = Run(experiment, Program(experiment).init(), {}, tmp_path)
    assert set(measured(run, classifiers)["solvers"]) == {"count", *solvers}


def test_guidance_is_for_the_samples_alone(result, diffusion, classifiers):
    """Solvers, and an untrained model, are compared without it."""
    found = measured(diffusion, classifiers, guidance=3.0, guidance_interval=(0.1, 9.0))
    assert found["solvers"] == result["solvers"]
    differ = {
        name for name, each in found["distances"].items() if each != result["distances"][name]
    }
    assert differ == {"samples"}


def test_a_judge_of_the_same_model_and_seed_is_refused_whatever_it_has_learned(classifiers):
    features, other = classifiers
    judge = copy.copy(other)
    judge.experiment = dataclasses.replace(other.experiment, seed=features.experiment.seed)
    with pytest.raises(UsageError, match="the model MLP and the seed 0, as the classifier"):
        generation.measure(None, features, judge, Request())


def test_too_few_samples_of_a_class_are_refused_ahead_of_all_work(
    diffusion, classifiers, monkeypatch
):
    monkeypatch.setattr(image_sets.Images, "draw", None)
    with pytest.raises(UsageError, match="of 9 samples class [012] has [0-3], .* raise --count"):
        measured(diffusion, classifiers, count=9)
    generation.require_enough(np.repeat([0, 1], 6), 2)
    with pytest.raises(UsageError, match="class 2 has 0"):
        generation.require_enough(np.repeat([0, 1], 6), 3)


def test_distances_are_printed_below_the_classifier_that_they_rest_on(
    result, diffusion, classifiers, tmp_path, monkeypatch, capsys
):
    asked = []
    runs = {"run": diffusion, "features": classifiers[0], "judge": classifiers[1]}
    monkeypatch.setattr(generation, "RESULTS", tmp_path)
    monkeypatch.setattr(generation, "load", runs.__getitem__)
    monkeypatch.setattr(generation, "Features", lambda classifier: classifier)
    monkeypatch.setattr(generation, "measure", lambda *given: asked.append(given[-1]) or result)
    words = ["generation", "--workdir=run", "--features=features", "--judge=judge"]
    words += ["--count=9", "--guidance=2", "--guidance_interval=0.3,3"]
    monkeypatch.setattr(sys, "argv", words)
    assert generation.main() == 0
    (request,) = asked
    assert (request.count, request.guidance, request.guidance_interval) == (9, 2.0, (0.3, 3.0))
    header, *rows, path = capsys.readouterr().out.splitlines()
    assert "mlp16" in header and classifiers[0].sha256[:12] in header
    assert [row.split()[0] for row in rows] == list(result["distances"])
    assert path == str(tmp_path / "generation_diffusion.json")
    monkeypatch.setattr(sys, "argv", [*words[:-1], "--guidance_interval=3"])
    assert generation.main() == 2
    assert capsys.readouterr().err.startswith("error: guidance_interval=3 is not two numbers")


def test_a_blur_spreads_a_point_as_a_gaussian_and_keeps_what_is_even():
    point = np.zeros((1, 21, 21, 1))
    point[0, 10, 10] = 1
    found = image_sets.blurred(point, 2.0)[0, :, :, 0]
    places = np.arange(21) - 10
    assert found.sum() == pytest.approx(1)
    assert (found.sum(axis=0) * places**2).sum() == pytest.approx(4, rel=0.03)
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_allclose(image_sets.blurred(np.full((1, 9, 9, 1), 0.3)), 0.3)


def test_noisy_means_have_the_moments_of_their_class():
    label = np.repeat([0, 1], 4000)
    rng = np.random.default_rng(0)
    x = np.where(label[:, None, None, None] == 0, 0.3, 0.6) + 0.05 * rng.normal(
        size=(8000, 2, 2, 1)
    )
    found = image_sets.noisy_means(x, label)
    for each in (0, 1):
        mine, true = found[label == each], x[label == each]
        np.testing.assert_allclose(mine.mean(axis=0), true.mean(axis=0), atol=0.005)
        np.testing.assert_allclose(mine.std(axis=0), 0.05, atol=0.005)


def test_kernel_distances_are_too_small_where_all_sets_have_as_many_of_each_class():
    """Why `measure` draws the classes at random."""
    generator = np.random.default_rng(0)
    label = np.repeat(np.arange(10), 200)
    asked = Request(500, labels=tuple(range(10)))

    def points(label):
        return np.eye(10)[label] + 0.1 * generator.normal(size=(len(label), 10))

    x = points(label)
    even = [kernel_distance(x, points(asked.class_of())) for _ in range(9)]
    assert max(each.value for each in even) < -2 * max(each.standard_error for each in even)


@pytest.mark.parametrize("drawn", ["half", "labels"])
def test_the_numbers_of_classes_scatter_as_those_of_independent_draws(drawn):
    """Over 400 seeds the variance of a number is n·p·(1 − p) within five standard errors."""
    label, asked = np.repeat(np.arange(4), 50), Request(100, labels=tuple(range(4)))

    def classes(seed):
        if drawn == "labels":
            return image_sets.independent(asked, seed).class_of()
        rows = image_sets.independent_half(label, 200, seed)
        assert np.unique(rows).size == 100
        return label[rows]

    counts = np.stack([np.bincount(classes(seed), minlength=4) for seed in range(400)])
    assert (counts.sum(axis=1) == 100).all()
    variance = 100 * 0.25 * 0.75
    assert abs(counts.var(axis=0).mean() - variance) < 5 * variance * (2 / 400) ** 0.5 / 2


def test_a_test_set_that_is_too_small_for_its_classes_is_refused():
    with pytest.raises(UsageError, match="40 test images are too few for 40 classes"):
        image_sets.independent_half(np.arange(40), 40)


def test_draws_of_training_images_differ(diffusion):
    images = image_sets.Images(diffusion, 20)
    assert not np.array_equal(images.training(0)[0], images.training(1)[0])
    np.testing.assert_array_equal(images.training(0)[0], images.train)
