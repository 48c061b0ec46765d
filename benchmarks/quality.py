"""Trains an experiment over seeds and writes mean ± standard deviation of its test metrics.

    python -m benchmarks.quality EXPERIMENT [--seeds=5] [--set FIELD=VALUE …] [--keep=DIR]

The file is benchmarks/results/quality_EXPERIMENT.json. With one seed an accuracy over examples has
the 95 % bootstrap interval over the test set. Where there is no test split it is the validation
split. Of a model that translates, the texts are scored as well and three are shown; of one that
draws from a mixture of Gaussians, the modes it covers are counted. `--keep` leaves the run of seed
0 in DIR.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from deeplearn.data.gaussians import Gaussians
from deeplearn.evaluate import shown, text_examples, text_scores, translations
from deeplearn.generation import generate
from deeplearn.mode_count import mode_count
from deeplearn.overrides import override
from deeplearn.report.receipt import cpu, devices, git, parameter_count, versions, write_json
from deeplearn.sampling.images import Request
from deeplearn.step import evaluation_variables
from deeplearn.train import Run, train

RESULTS = Path(__file__).parent / "results"


def bootstrap_accuracy(accuracy: float, examples: int, draws: int = 10_000) -> tuple[float, float]:
    """The 95 % interval of an accuracy when the test set is drawn again.

    Resampling the hits and misses of a test set with replacement is a binomial draw.
    """
    generator = np.random.default_rng(0)
    hits = generator.binomial(examples, accuracy, draws) / examples
    low, high = np.quantile(hits, [0.025, 0.975])
    return float(low), float(high)


def curve(workdir: Path, split: str) -> list[dict]:
    """The metrics of a split at every evaluation of a run."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [
        {name: value for name, value in row.items() if name != "split"}
        for row in rows
        if row["split"] == split
    ]


def code() -> dict | None:
    """The commit that a result comes from, and whether files differed; None outside a repository.

    Without the origin, which may be a place on this machine.
    """
    found = git(Path(__file__).parent)
    return found and {name: found[name] for name in ("commit", "dirty")}


def measure(name: str, seeds: int, changes: list[str], keep: Path | None) -> dict:
    """The metrics of every seed, their mean and spread, and the seconds that a run took."""
    # Ahead of the training, in which files may change.
    origin = code()
    runs, seconds, found = [], [], {}
    for seed in range(seeds):
        experiment = importlib.import_module(f"experiments.{name}").experiment()
        experiment = override(experiment, [*changes, f"seed={seed}"])
        split = "test" if "test" in experiment.evaluation else "validation"
        with tempfile.TemporaryDirectory() as temporary:
            workdir = keep if keep and seed == 0 else Path(temporary)
            began = time.monotonic()
            run = train(experiment, workdir)
            seconds.append(round(time.monotonic() - began, 1))
            runs.append(dict(run.metrics[split]))
            if seed == 0:
                found = of_first(run, split)
        if hasattr(experiment.task, "translate"):
            texts = translations(run, split)
            runs[-1] |= text_scores(run, split, texts)
            found["examples"] = text_examples(run, split, texts, 8)
        if isinstance(data := experiment.evaluation[split], Gaussians):
            runs[-1] |= coverage(run, data)
    return {
        "experiment": name,
        "changes": changes,
        "date": datetime.date.today().isoformat(),
        "code": origin,
        "seeds": seeds,
        split: summary(runs, found[f"{split}_examples"]),
        "seconds": seconds,
        **found,
        "versions": versions(),
        "devices": devices(),
        "cpu": cpu(),
    }


def summary(runs: list[dict], count: int) -> dict:
    """Mean and values of each metric over the runs, and their spread."""
    found: dict = {}
    for metric in runs[0]:
        values = [run[metric] for run in runs]
        found[metric] = {"mean": statistics.mean(values), "values": values}
        if len(runs) > 1:
            found[metric]["std"] = statistics.stdev(values)
        elif metric == "accuracy" and "perplexity" not in runs[0]:
            # Tokens of one text are no independent draws.
            found[metric]["bootstrap_95"] = bootstrap_accuracy(values[0], count)
    return found


def of_first(run: Run, split: str) -> dict:
    """What is told of the run of the first seed."""
    experiment = run.experiment
    found = {
        f"{split}_examples": len(experiment.evaluation[split]),
        "parameters": parameter_count(run.state.params),
        "curve": curve(run.workdir, split),
    }
    if "tokens" in (spec := experiment.train_dataset().spec):
        found["tokens_per_step"] = experiment.batch_size * (spec["tokens"].shape[0] - 1)
    return found


def coverage(run: Run, data: Gaussians, count: int = 5000) -> dict[str, float]:
    """How many modes of the data hold their part of `count` samples, and how many lie in one."""
    variables = evaluation_variables(run.state)
    samples = generate(run.experiment, variables, Request(count), jax.random.key(0))
    covered, share = mode_count(samples, data.modes, data.deviation)
    return {"modes": covered, "within_3_deviations": share}


def main() -> None:
    """Runs one experiment and writes its result."""
    parser = argparse.ArgumentParser(description="quality of an experiment over seeds")
    parser.add_argument("experiment")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--label", default="", help="a suffix of the result file's name")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leaves the run of seed 0 there")
    flags = parser.parse_args()
    if any(change.partition("=")[0].strip() == "seed" for change in flags.set):
        parser.error(
            "--set seed: the seeds are 0 to --seeds − 1; for another run"
            " ./launch.sh train --set seed=N"
        )
    result = measure(flags.experiment, flags.seeds, flags.set, flags.keep)
    label = f"_{flags.label}" if flags.label else ""
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"quality_{flags.experiment}{label}.json", result)
    print(json.dumps(result.get("test") or result["validation"], indent=2))
    if "examples" in result:
        print(shown(result["examples"][:3]))


if __name__ == "__main__":
    main()
