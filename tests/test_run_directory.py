"""The run directory: one process at a time, one experiment, and what a resumed run may change."""

import dataclasses
import json
import os

import pytest
from families import family, images

from deeplearn.errors import LockedError, ResumeError, StorageError, UsageError
from deeplearn.run_directory import (
    RunDirectory,
    describe,
    refuse_differences,
    stored_experiment,
)
from deeplearn.schedules import Constant


@pytest.fixture
def experiment():
    return dataclasses.replace(family("mlp"), early_stopping=None)


def refuse(path, old, new, done=12):
    refuse_differences(path, json.loads(json.dumps(describe(old))), new, done)


def test_a_directory_is_held_by_one_at_a_time_and_given_back(tmp_path):
    with RunDirectory(tmp_path / "run") as first:
        with pytest.raises(LockedError, match=f"in use by process {os.getpid()}") as caught:
            RunDirectory(tmp_path / "run").__enter__()
        assert caught.value.exit_code == 6
    with RunDirectory(tmp_path / "run") as second:
        assert second.path == first.path


def test_a_directory_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(UsageError, match="holds thesis.tex but no run"):
        RunDirectory(tmp_path).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_start_without_a_record_left_behind_is_no_obstacle(tmp_path):
    for name in (".lock", "crash.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "checkpoints").mkdir()
    with RunDirectory(tmp_path):
        pass


def test_a_file_where_the_directory_should_be_is_named(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written") as caught:
        RunDirectory(tmp_path / "run" / "inside").__enter__()
    assert caught.value.exit_code == 7


def test_a_record_that_cannot_be_read_is_named(tmp_path):
    assert stored_experiment(tmp_path) is None
    (tmp_path / "experiment.json").write_text("{")
    with pytest.raises(ResumeError, match="experiment.json cannot be read"):
        stored_experiment(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"log_every": 6},
        {"save_every": 6},
        {"keep": 5},
        {"evaluate_every": 12},
        {"evaluation": {}},
        {"mesh": (("data", 1),)},
    ],
)
def test_what_only_looks_may_change(experiment, tmp_path, changes):
    refuse(tmp_path, experiment, dataclasses.replace(experiment, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"batch_size": 20}, "batch_size: 12 there, 20 now"),
        ({"microbatches": 1}, "microbatches: 2 there, 1 now"),
        ({"steps_per_call": 2}, "steps_per_call: 1 there, 2 now"),
        ({"steps": 48}, "steps: 24 there, 48 now"),  # its cosine is longer
        ({"train": images(41, 16)}, "data train: "),
    ],
)
def test_what_decides_the_numbers_may_not(experiment, tmp_path, changes, message):
    with pytest.raises(ResumeError, match=message) as caught:
        refuse(tmp_path, experiment, dataclasses.replace(experiment, **changes))
    assert caught.value.exit_code == 8


def test_a_watched_evaluation_and_a_mesh_per_device_may_not_change(experiment, tmp_path):
    watched = family("mlp")
    with pytest.raises(ResumeError, match="evaluate_every: 6 there, 12 now"):
        refuse(tmp_path, watched, dataclasses.replace(watched, evaluate_every=12))
    split = dataclasses.replace(experiment, per_device=True)
    with pytest.raises(ResumeError, match="mesh"):
        refuse(tmp_path, split, dataclasses.replace(split, mesh=(("data", 1),)))


def test_a_run_may_become_longer_where_its_schedule_agrees(experiment, tmp_path):
    optimizer = dataclasses.replace(experiment.optimizer, schedule=Constant())
    constant = dataclasses.replace(experiment, optimizer=optimizer)
    refuse(tmp_path, constant, dataclasses.replace(constant, steps=48))
    with pytest.raises(UsageError, match="steps=3 is less than the 12 steps"):
        refuse(tmp_path, constant, dataclasses.replace(constant, steps=3))
