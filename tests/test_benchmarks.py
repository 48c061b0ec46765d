"""What `./launch.sh bench` knows, and how quality is told; races need the `peers` extra."""

import json
import sys
import tomllib
import types

import numpy as np
import pytest
from conftest import ROOT
from packaging.requirements import Requirement

from benchmarks import quality
from benchmarks.__main__ import PEERS, SUITES, main
from deeplearn.data.gaussians import Gaussians
from deeplearn.errors import UsageError


def test_every_file_of_measurements_is_a_suite():
    files = {
        path.stem for path in (ROOT / "benchmarks").glob("*.py") if "def rows(" in path.read_text()
    }
    assert files == set(SUITES)


def test_all_missing_peers_are_named_with_the_command_that_brings_them(monkeypatch):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["peers"]
    assert {Requirement(text).name for text in extra} == set(PEERS)
    monkeypatch.delitem(sys.modules, "benchmarks.transformer", raising=False)
    for peer in PEERS:
        monkeypatch.setitem(sys.modules, peer, None)
    message = r"installed: mambapy, torch, transformers; run: .* -e '\.\[peers\]'$"
    with pytest.raises(UsageError, match=message):
        main("transformer")


@pytest.mark.parametrize("modes", [25, 24, 1])
def test_coverage_is_that_of_what_a_run_draws(modes, monkeypatch):
    """Of a model that draws the data, but none of the last modes."""
    data = Gaussians("grid")

    def draw(experiment, variables, request, rng):
        drawn = Gaussians("grid", size=request.count, seed=1).arrays
        return np.where(drawn["label"][:, None] < modes, drawn["x"], 9.0)

    monkeypatch.setattr(quality, "generate", draw)
    monkeypatch.setattr(quality, "evaluation_variables", lambda state: state)
    found = quality.coverage(types.SimpleNamespace(experiment=None, state=None), data)
    assert found["modes"] == modes
    # Within three deviations lie 1 − exp(−9/2) of a Gaussian in the plane.
    assert found["within_3_deviations"] == pytest.approx(modes / 25 * (1 - np.exp(-4.5)), abs=0.008)


def test_the_curve_of_a_split_is_all_its_metrics_at_every_evaluation(tmp_path):
    rows = [
        {"step": 2, "split": "train", "loss": 4.0},
        {"step": 2, "split": "test", "loss": 3.0, "accuracy": 0.25},
        {"step": 4, "split": "validation", "loss": 2.5},
        {"step": 4, "split": "test", "loss": 2.0, "accuracy": 0.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert quality.curve(tmp_path, "test") == [
        {"step": 2, "loss": 3.0, "accuracy": 0.25},
        {"step": 4, "loss": 2.0, "accuracy": 0.5},
    ]
    assert quality.curve(tmp_path, "train") == [{"step": 2, "loss": 4.0}]


def test_translations_are_printed_with_the_metrics(monkeypatch, tmp_path, capsys):
    examples = [{"source": f"s{i}", "reference": f"r{i}", "translation": f"t{i}"} for i in range(8)]
    result = {"test": {"bleu": {"mean": 9}}, "examples": examples}
    monkeypatch.setattr(quality, "measure", lambda *arguments: result)
    monkeypatch.setattr(quality, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["quality", "x"])
    quality.main()
    metrics, *told = capsys.readouterr().out.strip().split("\n\n")
    assert json.loads(metrics) == result["test"]
    assert [text.split()[1::2] for text in told] == [[f"s{i}", f"r{i}", f"t{i}"] for i in range(3)]


def test_a_seed_that_would_be_overridden_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["quality", "x", "--set", "steps=3", "--set", "seed=1"])
    with pytest.raises(SystemExit):
        quality.main()
    assert "the seeds are 0 to --seeds" in capsys.readouterr().err
