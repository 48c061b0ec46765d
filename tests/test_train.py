"""The loop: what a run leaves behind, how it goes on, stops and refuses."""

import dataclasses
import json
import logging
import os
import re
import signal

import jax
import numpy as np
import pytest
from flax import linen as nn

from deeplearn.data.memory import Arrays
from deeplearn.data.permutation import permute
from deeplearn.errors import (
    DataError,
    LockedError,
    NumericsError,
    Preempted,
    ResumeError,
    StorageError,
    UsageError,
)
from deeplearn.evaluate import evaluate
from deeplearn.experiment import EarlyStopping, Experiment
from deeplearn.hooks import Hook
from deeplearn.models.gan import MLPDiscriminator, MLPGenerator
from deeplearn.models.mlp import MLP
from deeplearn.optimizers import SGD, AdamW
from deeplearn.players import NAMES, Players
from deeplearn.report.receipt import state_sha256
from deeplearn.report.rows import read_rows
from deeplearn.run_directory import RunDirectory
from deeplearn.schedules import Constant, Cosine
from deeplearn.tasks.adversarial import Adversarial
from deeplearn.tasks.classification import Classification
from deeplearn.train import load, train


def data(rows=40, seed=0, **changes):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 4)).astype(np.float32)
    fields = {"x": x, "label": (x[:, 0] > 0).astype(np.int32)}
    return Arrays({**fields, **changes})


@pytest.fixture(scope="module")
def experiment():
    return Experiment(
        name="example",
        task=Classification(MLP(hidden=(8,), outputs=2)),
        train=data(),
        evaluation={"test": data(21, seed=1)},
        optimizer=AdamW(learning_rate=0.01),
        steps=20,
        batch_size=8,
        log_every=5,
        evaluate_every=10,
        save_every=5,
    )


@pytest.fixture(scope="module")
def finished(experiment, tmp_path_factory):
    """A whole run of it, which no test changes."""
    return train(experiment, tmp_path_factory.mktemp("finished") / "run")


class At(Hook):
    """Does something behind the dispatch of a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def after(self, loop):
        if loop.step == self.step:
            self.action(loop)


def terminate(_):
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_leaves_rows_timing_receipt_and_record(finished):
    rows = read_rows(finished.workdir / "metrics.jsonl")
    assert [(row["step"], row["split"]) for row in rows] == [
        (5, "train"),
        (10, "train"),
        (10, "test"),
        (15, "train"),
        (20, "train"),
        (20, "test"),
    ]
    assert set(rows[0]) == {"step", "split", "loss", "accuracy", "gradient_norm", "skipped"}
    assert finished.metrics["test"] == {"loss": rows[-1]["loss"], "accuracy": rows[-1]["accuracy"]}
    receipt = json.loads((finished.workdir / "receipt.json").read_text())
    assert receipt["state_sha256"] == state_sha256(finished.state)
    assert receipt["steps"] == int(finished.state.step) == 20
    stored = json.loads((finished.workdir / "experiment.json").read_text())
    assert stored["record"]["task"]["model"]["hidden"] == [8]
    assert len(stored["digests"]["train"]) == 64
    timing = read_rows(finished.workdir / "timing.jsonl")
    assert timing and all(row["examples_per_second"] > 0 for row in timing)


def test_loading_gives_the_run_and_evaluates_the_same(experiment, finished):
    loaded = load(finished.workdir, experiment)
    assert state_sha256(loaded.state) == state_sha256(finished.state)
    assert loaded.metrics == finished.metrics
    assert evaluate(loaded, "test") == finished.metrics["test"]
    with pytest.raises(UsageError, match="no split 'dev'; it has: test"):
        evaluate(loaded, "dev")


def test_loading_rebuilds_from_the_source_and_refuses_another_one(experiment, finished, tmp_path):
    with pytest.raises(UsageError, match="experiments/example.py"):
        load(finished.workdir)
    other = dataclasses.replace(experiment, optimizer=AdamW(learning_rate=0.02))
    with pytest.raises(ResumeError, match=r"optimizer.learning_rate: 0.01 there, 0.02 now"):
        load(finished.workdir, other)
    with pytest.raises(UsageError, match="run directory ~nobody0: Could not determine home"):
        load("~nobody0")
    with pytest.raises(UsageError, match="no run in"):
        load(tmp_path / "nothing")


def test_a_run_is_loaded_where_its_mesh_does_not_fit(experiment, finished):
    rules = (("kernel", ("data", None)), ("bias", "fsdp"))
    placed = dataclasses.replace(experiment, mesh=(("data", 3),), rules=rules)
    loaded = load(finished.workdir, placed)
    assert loaded.experiment == placed
    assert evaluate(loaded, "test") == finished.metrics["test"]
    with pytest.raises(UsageError, match="needs 3 devices"):
        train(placed, finished.workdir)


def test_a_run_of_single_devices_is_loaded_on_any_number(experiment, tmp_path):
    alone = dataclasses.replace(experiment, per_device=True, steps=5)
    run = train(alone, tmp_path / "run")
    path = run.workdir / "experiment.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "devices": 4}))
    assert evaluate(load(run.workdir, alone), "test") == run.metrics["test"]
    with pytest.raises(ResumeError, match="devices: 4 there, 1 now"):
        train(alone, run.workdir)


def test_a_finished_run_is_not_touched_again(experiment, finished):
    files = finished.workdir.rglob("*")
    before = {path: path.stat().st_mtime_ns for path in files if path.suffix == ".json"}
    again = train(experiment, finished.workdir)
    assert state_sha256(again.state) == state_sha256(finished.state)
    assert again.metrics == finished.metrics
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_sigterm_saves_and_the_next_start_ends_alike(experiment, finished, tmp_path):
    with pytest.raises(Preempted, match="SIGTERM stopped the run at step 8") as caught:
        train(experiment, tmp_path / "cut", hooks=[At(7, terminate)])
    assert caught.value.exit_code == 75
    # Rows beyond the last checkpoint, as a kill leaves them, are taken again.
    later = '{"step": 10, "split": "train", "loss": 1.0}\n'
    for name in ("metrics.jsonl", "timing.jsonl"):
        with (tmp_path / "cut" / name).open("a") as rows:
            rows.write(later)
    resumed = train(experiment, tmp_path / "cut")
    assert state_sha256(resumed.state) == state_sha256(finished.state)
    cut, uncut = (run.workdir / "metrics.jsonl" for run in (resumed, finished))
    assert cut.read_bytes() == uncut.read_bytes()
    assert later not in (tmp_path / "cut" / "timing.jsonl").read_text()


def test_a_hook_can_end_the_run_or_leave_it_to_be_resumed(experiment, finished, tmp_path):
    def stop(loop):
        loop.stopping = True

    def leave(loop):
        loop.preempted = True

    stopped = train(experiment, tmp_path / "stopped", hooks=[At(7, stop)])
    assert int(stopped.state.step) == 8
    assert stopped.metrics == load(stopped.workdir, experiment).metrics
    assert set(stopped.metrics) == {"train", "test"}
    with pytest.raises(Preempted, match="a hook stopped the run at step 8"):
        train(experiment, tmp_path / "left", hooks=[At(7, leave)])
    resumed = train(experiment, tmp_path / "left")
    assert state_sha256(resumed.state) == state_sha256(finished.state)
    left, uncut = (run.workdir / "metrics.jsonl" for run in (resumed, finished))
    assert left.read_bytes() == uncut.read_bytes()
    with pytest.raises(Preempted, match="SIGTERM stopped the run at step 8"):
        train(experiment, tmp_path / "both", hooks=[At(7, terminate), At(8, stop)])


def test_the_loop_gives_the_signals_back(experiment, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    train(experiment, tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) is before


def test_early_stopping_ends_the_run_at_its_best(experiment, tmp_path):
    """Labels of noise: the validation loss turns soon, and the best state is the result."""
    noise = np.random.default_rng(2).integers(0, 2, 40)
    stopping = dataclasses.replace(
        experiment,
        train=data(label=noise),
        evaluation={"validation": data(40, seed=3, label=noise[::-1].copy())},
        optimizer=AdamW(learning_rate=0.1),
        steps=2000,
        evaluate_every=5,
        early_stopping=EarlyStopping("validation/loss", patience=3),
    )
    run = train(stopping, tmp_path / "run")
    losses = {
        row["step"]: row["loss"]
        for row in read_rows(run.workdir / "metrics.jsonl")
        if row["split"] == "validation"
    }
    best = min(losses, key=losses.get)
    assert int(run.state.step) == best
    assert max(losses) == best + 3 * 5 < 2000
    assert run.metrics["validation"]["loss"] == losses[best]
    assert evaluate(run, "validation")["loss"] == losses[best]
    assert state_sha256(load(run.workdir, stopping).state) == state_sha256(run.state)
    assert int(train(stopping, tmp_path / "run").state.step) == best


def test_a_metric_that_is_not_measured_cannot_be_watched(experiment, tmp_path):
    watching = dataclasses.replace(experiment, early_stopping=EarlyStopping("test/f1"))
    with pytest.raises(UsageError, match="'test/f1' is not measured; choose one of: test/"):
        train(watching, tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(experiment, tmp_path):
    diverging = dataclasses.replace(experiment, optimizer=SGD(learning_rate=1e15), log_every=1)
    with pytest.raises(NumericsError, match=r"step \d+ is not finite, and no state") as caught:
        train(diverging, tmp_path / "run")
    assert caught.value.exit_code == 5
    halted = int(re.search(r"step (\d+)", str(caught.value))[1])
    assert halted > 1, "there is a row to keep"
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, halted))
    assert not (tmp_path / "run" / "receipt.json").exists()


def test_what_has_halted_is_not_evaluated(experiment, tmp_path):
    diverging = dataclasses.replace(
        experiment, optimizer=SGD(learning_rate=1e30), log_every=100, evaluate_every=4
    )
    with pytest.raises(NumericsError, match="step 1 is not finite"):
        train(diverging, tmp_path / "run")
    assert read_rows(tmp_path / "run" / "metrics.jsonl") == []


@pytest.mark.parametrize("name", NAMES)
def test_the_stop_names_the_player_that_broke(name, experiment, tmp_path):
    players = dataclasses.replace(Players(), **{name: SGD(learning_rate=1e30)})
    models = MLPGenerator((4,), outputs=4), MLPDiscriminator((4,))
    game = dataclasses.replace(
        experiment, task=Adversarial(*models, latent=2), optimizer=players, evaluation={}
    )
    with pytest.raises(NumericsError, match=f"is not finite in the {name}, and no state"):
        train(game, tmp_path / "run")


def test_the_stop_names_the_player_though_later_batches_are_good(experiment, tmp_path):
    x = np.array(data().fields["x"])
    x[7] = 3e38
    game = dataclasses.replace(
        experiment,
        task=Adversarial(MLPGenerator((4,), outputs=4), MLPDiscriminator((4,)), latent=2),
        train=data(x=x),
        optimizer=Players(),
        evaluation={},
        log_every=20,
        save_every=20,
    )
    with pytest.raises(NumericsError, match="is not finite in the discriminator, and no state"):
        train(game, tmp_path / "run")


class Unmoved(nn.Module):
    """A discriminator whose last bias is all it says."""

    @nn.compact
    def __call__(self, image, *, train=False):
        bias = self.param("bias", nn.initializers.constant(0.3), ())
        return bias + 0 * image.sum(-1)


def test_a_discriminator_that_tells_nothing_stops_the_run(experiment, tmp_path):
    game = dataclasses.replace(
        experiment,
        task=Adversarial(MLPGenerator((4,), outputs=4), Unmoved(), latent=2),
        optimizer=Players(),
        evaluation={},
        skip_limit=3,
    )
    with pytest.raises(NumericsError, match=r"in step \d+ the discriminator gives all images one"):
        train(game, tmp_path / "run")


def test_the_step_is_compiled_once(experiment, tmp_path, caplog):
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        train(experiment, tmp_path / "run")
    compiled = [
        record.getMessage()
        for record in caplog.records
        if record.getMessage().startswith("Finished XLA compilation of jit(train_step)")
    ]
    assert len(compiled) == 1, compiled


def test_several_steps_a_call_take_the_same_path(experiment, finished, tmp_path):
    stacked = train(dataclasses.replace(experiment, steps_per_call=5), tmp_path / "stacked")
    for one, two in zip(
        jax.tree.leaves(finished.state.params), jax.tree.leaves(stacked.state.params), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    steps = [row["step"] for row in read_rows(stacked.workdir / "metrics.jsonl")]
    assert steps == [5, 10, 10, 15, 20, 20]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"batch_size": 4}, "batch_size: 8 there, 4 now"),
        ({"train": data(seed=5)}, "train.fields.x.sha256"),
        ({"optimizer": SGD()}, "optimizer.type"),
        ({"steps_per_call": 5}, "steps_per_call"),
    ],
)
def test_another_run_is_refused_with_the_difference(experiment, finished, changes, field):
    before = (finished.workdir / "experiment.json").read_bytes()
    with pytest.raises(ResumeError, match=field) as caught:
        train(dataclasses.replace(experiment, **changes), finished.workdir)
    assert "\n" not in str(caught.value)
    assert (finished.workdir / "experiment.json").read_bytes() == before


def test_a_run_can_be_made_longer_where_the_schedule_allows_it(experiment, tmp_path):
    constant = dataclasses.replace(experiment, optimizer=AdamW(schedule=Constant()))
    longer = dataclasses.replace(constant, steps=30)
    train(constant, tmp_path / "run")
    extended = train(longer, tmp_path / "run")
    assert state_sha256(extended.state) == state_sha256(train(longer, tmp_path / "new").state)
    with pytest.raises(UsageError, match="less than the 30 steps"):
        train(constant, tmp_path / "run")
    cosine = dataclasses.replace(experiment, optimizer=AdamW(schedule=Cosine()))
    train(cosine, tmp_path / "cosine")
    with pytest.raises(ResumeError, match="steps: 20 there, 30 now"):
        train(dataclasses.replace(cosine, steps=30), tmp_path / "cosine")


def test_an_occupied_directory_is_refused(experiment, tmp_path):
    with (
        RunDirectory(tmp_path / "run"),
        pytest.raises(LockedError, match=rf"in use by process {os.getpid()} on") as caught,
    ):
        train(experiment, tmp_path / "run")
    assert caught.value.exit_code == 6
    train(experiment, tmp_path / "run")


def test_a_directory_of_other_files_is_refused(experiment, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds notes.txt but no run"):
        train(experiment, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_directory_that_cannot_be_written_is_refused(experiment, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written") as caught:
        train(experiment, tmp_path / "file")
    assert caught.value.exit_code == 7
    with pytest.raises(StorageError, match="cannot be written"):
        train(experiment, "/proc/run")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train": data(0)}, DataError, "no examples"),
        ({"batch_size": 64}, DataError, "64"),
        ({"train": data(label=np.full(40, 2))}, DataError, "label"),
        ({"train": data(label=np.full(40, -1))}, DataError, "label"),
        (
            {"train": data(label=np.arange(40) // 39 * 9)},
            DataError,
            "split 'train', examples from 0 on: field 'label' in row 39 of the batch is 9",
        ),
        ({"evaluation": {"test": data(0)}}, DataError, "split 'test': .* holds no examples"),
        (
            {
                "evaluation": {
                    "test": data(label=np.arange(40) // 39),
                    "dev": data(label=np.arange(40)),
                },
                "evaluation_batch_size": 25,
            },
            DataError,
            "split 'dev', examples from 0 on: field 'label' in row 2",
        ),
        (
            {"evaluation": {"test": Arrays({"x": np.zeros((3, 5)), "label": np.zeros(3, int)})}},
            DataError,
            r"does not fit the model: field 'x' is float32 \(5,\), in training float32 \(4,\)",
        ),
        (
            {"evaluation": {"test": Arrays({"x": np.zeros((3, 4))})}},
            DataError,
            "split 'test', .* no field 'label'",
        ),
        ({"steps": 0}, UsageError, "steps=0"),
        ({"mesh": (("data", 3),)}, UsageError, "3 devices"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    experiment, tmp_path, changes, error, message
):
    with pytest.raises(error, match=message) as caught:
        train(dataclasses.replace(experiment, **changes), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_nan_in_the_data_is_refused():
    x = np.zeros((4, 2), np.float32)
    x[2, 1] = np.nan
    with pytest.raises(DataError, match="field 'x' of example 2"):
        Arrays({"x": x, "label": np.zeros(4, np.int32)})


@dataclasses.dataclass(frozen=True)
class Unchanged:
    """An augmentation that does nothing: examples are checked when their batch is made."""

    def __call__(self, examples, draw):
        return examples


def test_mended_data_start_anew_where_nothing_was_kept(experiment, tmp_path):
    directory, label = tmp_path / "run", np.full(40, 9)
    label[permute(experiment.seed, 0, 40, np.arange(1))] = 0
    wider = Classification(MLP(hidden=(11,), outputs=2))
    bad = dataclasses.replace(
        experiment, task=wider, train=data(label=label), augment=(Unchanged(),)
    )
    with pytest.raises(DataError, match="field 'label' in row 1 of the batch is 9"):
        train(bad, directory)
    assert "11" in (directory / "summary.txt").read_text().split()
    rows = directory / "metrics.jsonl"
    rows.write_text('{"step": 5, "split": "train", "loss": 1.0}\n')
    with pytest.raises(ResumeError, match="belongs to another run"):
        train(experiment, directory)
    rows.unlink()
    assert int(train(experiment, directory).state.step) == 20
    assert "11" not in (directory / "summary.txt").read_text().split()
    assert json.loads((directory / "experiment.json").read_text())["record"]["augment"] == []


def test_a_start_that_came_to_nothing_does_not_stand_in_the_way(experiment, tmp_path):
    directory = tmp_path / "run"
    (directory / "checkpoints").mkdir(parents=True)
    for name in (".lock", "crash.txt", "experiment.json.tmp"):
        (directory / name).write_text("")
    assert int(train(experiment, directory).state.step) == 20


def test_a_run_that_ended_between_its_periods_cannot_be_made_longer(experiment, tmp_path):
    """Its last step was logged and evaluated out of turn, which a longer run would not do."""
    odd = dataclasses.replace(experiment, optimizer=AdamW(schedule=Constant()), log_every=7)
    train(odd, tmp_path / "run")
    with pytest.raises(ResumeError, match="steps: 20 there, 30 now"):
        train(dataclasses.replace(odd, steps=30), tmp_path / "run")
