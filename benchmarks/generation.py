"""How good the images of a generative run are, in the features of one classifier, by another.

    python -m benchmarks.generation --workdir=RUN --features=CLASSIFIER_RUN --judge=OTHER_RUN

Writes benchmarks/results/generation_NAME.json, NAME being the experiment. Against the test set
stand `--count` samples, as many training images (the floor that a perfect model reaches, its
Fréchet distance over several draws), training images blurred by a Gaussian of 1 pixel, the mean of
each class with noise of its deviation, and what the untrained model draws. Classes are drawn at
random, since those of training images are: where all sets had as many of each class, distances
would be smaller, and a kernel distance not unbiased. The judge, a classifier of another
architecture or seed, says how often a sample is taken for the class that was asked for. Of a
diffusion model DPM-Solver++(2M) of few steps is held against DDIM of 250, or of all that its
process has, both without guidance.
Images are compared on [0, 1], cut there.

Name the classifiers by their hashes wherever a number is quoted: it means nothing elsewhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.image_sets import Images, independent, independent_half, unguided
from benchmarks.quality import bootstrap_accuracy, code
from deeplearn.errors import Error, UsageError
from deeplearn.features import Features
from deeplearn.generation import overview
from deeplearn.generative_metrics import (
    NEIGHBORS,
    Estimate,
    frechet_distance,
    kernel_distance,
    support,
    support_by_class,
)
from deeplearn.report.receipt import cpu, devices, state_sha256, versions, write_json
from deeplearn.sampling.images import Request, interval_of
from deeplearn.step import evaluation_variables
from deeplearn.tasks.denoising import SAMPLER
from deeplearn.train import Run, load
from deeplearn.types import Variables

RESULTS = Path(__file__).parent / "results"
SOLVER_COUNT = 2000
FLOOR_DRAWS = 5
FEW_STEPS, MANY_STEPS = (15, 20), 250


def measure(run: Run, features: Features, judge: Features, request: Request) -> dict[str, Any]:
    """Everything that is told of a run; `request` says how many images, and how drawn."""
    roles = {"features": described(features), "judge": described(judge)}
    if all(roles["features"][field] == roles["judge"][field] for field in ("model", "seed")):
        raise UsageError(
            f"the judge has the model {roles['judge']['model']} and the seed"
            f" {roles['judge']['seed']}, as the classifier of the features has; name the run of"
            " another model or seed"
        )
    # Ahead of the work, in which files may change.
    origin = code()
    diffusion = hasattr(run.experiment.task, "path")
    if diffusion:
        steps = request.steps or run.experiment.task.steps
        chosen = {"sampler": request.sampler or SAMPLER, "steps": steps}
        request = dataclasses.replace(request, **chosen)
    label = independent(request, 0).class_of()
    if label is not None:
        require_enough(label, len(request.labels))
    images = Images(run, request.count)
    variables = evaluation_variables(run.state)
    samples = images.draw(variables, request)
    real = features(images.test)
    half = independent_half(images.test_label, len(real))
    found: dict[str, Any] = {
        "experiment": run.experiment.name,
        "overrides": list(run.experiment.overrides),
        "date": datetime.date.today().isoformat(),
        "code": origin,
        "state_sha256": state_sha256(run.state),
        "request": {**dataclasses.asdict(request), "order_of_labels": "at random"},
        "test_images": len(real),
        "features": {**roles["features"], "width": real.shape[1]},
        "judge": roles["judge"],
        "distances": {"samples": distances(real, half, features(samples))},
    }
    for name, x in images.references(request).items():
        found["distances"][name] = distances(real, half, features(x))
    first = found["distances"]["training_images"]["frechet"]
    found["floor"] = floor(images, features, real, first)
    over = found["distances"]["samples"]["frechet"] / found["floor"]["mean"]
    found["frechet_over_floor"] = over
    if label is not None:
        found["recognized"] = recognized(judge.labels(samples), label)
        found["support_by_class"] = {
            each: value._asdict()
            for each, value in support_by_class(
                real, images.test_label, features(samples), label
            ).items()
        }
    if diffusion:
        found["solvers"] = solvers(images, features, real[half], variables, request)
    return {**found, "versions": versions(), "devices": devices(), "cpu": cpu()}


def require_enough(label: np.ndarray, classes: int) -> None:
    """Raises `UsageError` where labels (N,) have too few samples of a class to tell its support."""
    sizes = np.bincount(label, minlength=classes)
    if sizes.min() <= NEIGHBORS:
        raise UsageError(
            f"of {len(label)} samples class {sizes.argmin()} has {sizes.min()}, and its support"
            f" takes {NEIGHBORS + 1} or more; raise --count"
        )


def described(classifier: Features) -> dict[str, Any]:
    """What a classifier is, by its run's record, its hash, and what it reached on its test set."""
    experiment = classifier.experiment
    return {
        "name": classifier.name,
        "sha256": classifier.sha256,
        "model": type(experiment.task.model).__name__,
        "seed": experiment.seed,
        "overrides": list(experiment.overrides),
        "test_accuracy": classifier.metrics.get("test", {}).get("accuracy"),
    }


def floor(images: Images, features: Features, real: np.ndarray, first: float) -> dict[str, Any]:
    """The Fréchet distance of training images, over draws, of which `first` is known."""
    draws = [images.training(seed)[0] for seed in range(1, FLOOR_DRAWS)]
    values = [first, *(frechet_distance(real, features(draw)) for draw in draws)]
    return {"mean": statistics.mean(values), "std": statistics.stdev(values), "values": values}


def distances(real: np.ndarray, half: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Of two sets of features: both distances, and how the supports overlap.

    That of the kernel is to the rows `half` of the real ones (`independent_half`).
    """
    return {
        "frechet": frechet_distance(real, other),
        "kernel": kernel_distance(real[half], other)._asdict(),
        "support": support(real, other)._asdict(),
    }


def recognized(found: np.ndarray, asked: np.ndarray) -> dict[str, Any]:
    """The share of samples that are taken for the class asked for, with its 95 % interval."""
    hits = found == asked
    return {
        "share": float(hits.mean()),
        "bootstrap_95": bootstrap_accuracy(float(hits.mean()), len(hits)),
        "by_class": {int(each): float(hits[asked == each].mean()) for each in np.unique(asked)},
    }


def solvers(
    images: Images, features: Features, real: np.ndarray, variables: Variables, request: Request
) -> dict[str, Any]:
    """The kernel distance of a fast solver's samples to the data, against that of DDIM.

    Every solver begins with noise and labels of its own, so that its samples are independent of the
    others'. `difference` is that of the two distances, and its error holds both as independent,
    which is too large: the data are the same. `between` is the distance of the two sets of samples.
    A process of fewer steps takes its own.
    """
    most = getattr(images.run.experiment.task.process, "steps", MANY_STEPS)
    many, few = min(MANY_STEPS, most), sorted({min(steps, most) for steps in FEW_STEPS})

    def drawn(sampler: str, steps: int, seed: int) -> tuple[np.ndarray, Estimate]:
        asked = dataclasses.replace(
            unguided(request), count=SOLVER_COUNT, sampler=sampler, steps=steps
        )
        x = features(images.draw(variables, asked, seed))
        return x, kernel_distance(real, x)

    slow, slow_kernel = drawn("ddim", many, 1)
    found: dict[str, Any] = {"count": SOLVER_COUNT, f"ddim_{many}": slow_kernel._asdict()}
    for seed, steps in enumerate(few, start=2):
        fast, kernel = drawn("dpm_solver_2m", steps, seed)
        difference = kernel.value - slow_kernel.value
        error = math.hypot(kernel.standard_error, slow_kernel.standard_error)
        found[f"dpm_solver_2m_{steps}"] = {
            **kernel._asdict(),
            "difference": Estimate(difference, error)._asdict(),
            "between": kernel_distance(slow, fast)._asdict(),
            "within_two_standard_errors": abs(difference) <= 2 * error,
        }
    return found


def main() -> int:
    """Measures one run and writes its result; returns the exit code."""
    parser = argparse.ArgumentParser(description="quality of generated images")
    parser.add_argument("--workdir", required=True, help="the run of a generative model")
    parser.add_argument("--features", required=True, help="the run whose features are compared")
    parser.add_argument("--judge", required=True, help="the run that says the classes")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--guidance_interval", metavar="LOW,HIGH")
    parser.add_argument("--sampler")
    parser.add_argument("--steps", type=int)
    flags = parser.parse_args()
    options = {name: getattr(flags, name) for name in ("count", "guidance", "sampler", "steps")}
    try:
        if flags.guidance_interval is not None:
            options["guidance_interval"] = interval_of(flags.guidance_interval)
        run = load(flags.workdir)
        features, judge = Features(load(flags.features)), Features(load(flags.judge))
        request = dataclasses.replace(overview(run.experiment), **options)
        result = measure(run, features, judge, request)
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"generation_{run.experiment.name}.json"
    write_json(path, result)
    space, state = (result["features"][field] for field in ("name", "sha256"))
    print(f"Fréchet distances in the features of {space}, state {state[:12]}")
    for name, found in result["distances"].items():
        print(f"{name:<24} {found['frechet']:10.4f}")
    print(f"{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
