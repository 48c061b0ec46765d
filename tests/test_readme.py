"""Every Python block of the README runs, and what it defines works."""

import contextlib
import importlib
import io
import re
import shlex
from pathlib import Path

import generators
import jax
import numpy as np
import pytest

import deeplearn
from deeplearn import Experiment, Run, train
from deeplearn.optimizers import AdamW
from deeplearn.overrides import override
from deeplearn.program import Program
from deeplearn.step import init_state, train_step
from deeplearn.tasks.classification import Classification

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
GAMES = re.findall(
    r"^\./launch\.sh train --experiment=(\w*gan_\w+) (.+)$",
    README.read_text().replace("\\\n", ""),
    re.MULTILINE,
)
SMALL = {
    "gan_gaussians": ["task.generator.hidden=(8,)", "task.discriminator.hidden=(8,)"],
    "dcgan_fashion_mnist": ["task.generator.channels=(4,2)", "task.discriminator.channels=(2,4)"],
}


def run(block):
    scope = {"__name__": "readme"}
    exec(compile(block, str(README), "exec"), scope)
    return scope


def test_the_first_example_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        scope = run(BLOCKS[0])
    assert scope["run"].metrics["train"]["accuracy"] > 0.9
    assert (tmp_path / "runs" / "wine" / "receipt.json").is_file()
    assert float(printed.getvalue().splitlines()[-1]) > 0.9


def test_a_text_of_ones_own_trains_a_model(tmp_path, monkeypatch):
    # The block reads the README as its text, and reports by the bytes of it.
    (tmp_path / "README.md").write_text(README.read_text())
    monkeypatch.chdir(tmp_path)
    metrics = run(BLOCKS[1])["run"].metrics["validation"]
    assert (tmp_path / "runs" / "own_text" / "receipt.json").is_file()
    assert 0 < metrics["bits_per_byte"] < 8


@pytest.fixture(scope="module")
def own():
    architecture, dataset, loss = map(run, BLOCKS[3:])
    return architecture["Maxout"], dataset["Parity"], loss


def test_lower_halves_are_drawn_below_known_upper_ones(tmp_path, monkeypatch):
    experiment = generators.diffusion()
    untrained = Run(experiment, Program(experiment).init(), {}, tmp_path)
    monkeypatch.setattr(deeplearn, "load", {"runs/diffusion_fashion_mnist": untrained}.__getitem__)
    scope = run(BLOCKS[2])
    np.testing.assert_array_equal(scope["x"][:, :4], scope["known"][:, :4])
    assert np.isfinite(scope["x"]).all() and (scope["x"] != scope["known"])[:, 4:].any()
    assert (tmp_path / "samples" / "inpainted.png").is_file()


def test_every_other_game_is_found():
    assert {name for name, _ in GAMES} == set(SMALL)


@pytest.mark.parametrize(("name", "flags"), GAMES)
def test_another_game_takes_a_step(name, flags, key):
    changes = [word for word in shlex.split(flags) if word != "--set"]
    experiment = importlib.import_module(f"experiments.{name}").experiment()
    experiment = override(experiment, [*changes, *SMALL[name]])
    experiment.validate()
    task, optimizer = experiment.task, experiment.optimizer.build(experiment.steps)
    batch = {"x": jax.random.normal(key, (4, *getattr(task.generator, "image", (2,))))}
    state = jax.jit(lambda key: init_state(task, optimizer, key, batch))(key)
    state, metrics = jax.jit(lambda state: train_step(task, optimizer, state, batch))(state)
    assert np.isfinite(metrics["loss"].value) and int(state.control.skipped) == 0


@pytest.mark.parametrize("block", BLOCKS[3:])
def test_a_way_to_add_takes_fewer_than_30_lines(block):
    assert len(block.splitlines()) < 30


def test_the_focal_loss_without_focus_is_the_cross_entropy(own):
    loss = own[2]
    logits, labels = np.array([[0.0, 1.0], [2.0, -1.0]], np.float32), np.array([1, 0])
    expected = np.log1p(np.exp([-1.0, -3.0]))
    np.testing.assert_allclose(loss["focal_loss"](logits, labels, gamma=0.0), expected, rtol=1e-5)


def test_the_three_additions_train_together(own, tmp_path):
    maxout, parity, loss = own
    for task in (Classification(maxout(outputs=2)), loss["Focal"](maxout(outputs=2))):
        data = parity(bits=4)
        experiment = Experiment(
            name="own",
            task=task,
            train=data,
            evaluation={"all": data},
            optimizer=AdamW(learning_rate=0.01),
            steps=300,
            batch_size=16,
        )
        run = train(experiment, tmp_path / type(task).__name__)
        assert run.metrics["all"]["accuracy"] == 1.0
