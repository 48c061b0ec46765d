"""The command line: what it lists, what it refuses and how, and where a crash goes."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deeplearn.errors import DataError, Error, Preempted
from experiments import _command, launch, mlp_digits
from experiments._command import Flag, Mode

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def command(monkeypatch, capsys):
    """A function that runs a command line in this process: words → (exit code, stdout, stderr)."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["launch", *words])
        code = launch.main()
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def replace_train(monkeypatch):
    """A function that puts another function in the place of the mode `train`."""

    def replace(function) -> None:
        mode = launch.MODES["train"]
        monkeypatch.setitem(launch.MODES, "train", Mode(mode.help, function, mode.flags))

    return replace


def test_without_a_mode_it_lists_modes_and_experiments(command):
    code, out, err = command()
    assert code == 0 and not err
    lines = out.splitlines()
    for name in (*launch.MODES, *_command.experiments()):
        assert sum(line.split()[:1] == [name] for line in lines) == 1, name
    assert all(len(line) <= 120 for line in lines)


def test_every_experiment_has_a_line_and_the_machinery_is_none(command):
    experiments = _command.experiments()
    files = {path.stem for path in (ROOT / "experiments").glob("[!_]*.py")}
    assert set(experiments) == files - {"launch"}
    assert "mlp_digits" in experiments
    for name, text in experiments.items():
        assert text and not text.startswith("("), name


def test_a_broken_experiment_is_listed_as_such(monkeypatch, tmp_path):
    (tmp_path / "broken.py").write_text("def (:\n")
    monkeypatch.setattr(_command, "__file__", str(tmp_path / "_command.py"))
    assert "cannot be read" in _command.experiments()["broken"]


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["train", "--help"], ["--help", "train"]])
def test_help_names_the_flags(command, words):
    code, out, err = command(*words)
    assert code == 0 and not err
    modes = launch.MODES if words[0] != "train" else {"train": launch.MODES["train"]}
    for mode in modes.values():
        for flag in mode.flags:
            assert f"--{flag}" in out
    assert ("--split" in out) == (words[0] != "train")


def test_help_after_the_separator_is_for_pytest(monkeypatch, command):
    given = []
    monkeypatch.setattr(pytest, "main", lambda words: given.append(words) or 0)
    monkeypatch.chdir(ROOT)
    assert command("test", "--", "--help")[0] == 0
    assert given == [["--help"]]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("trian", "did you mean 'train'"),
        ("replay", "unknown mode 'replay'"),
        ("mlp_digits", "did you mean 'train --experiment=mlp_digits'"),
        ("experiment=mlp_digits", "did you mean 'train --experiment=mlp_digits'"),
        ("--experiment=mlp_digits", "did you mean 'train --experiment=mlp_digits'"),
        ("--nonsense", "a mode comes first"),
        ("train --experiment=", "--experiment= is unknown; choose one of: "),
        ("train --experiment=mlp_digit", "did you mean 'mlp_digits'"),
        ("train --experiment=launch", "--experiment=launch is unknown"),
        ("train --experiment=../x", "--experiment=../x is unknown"),
        ("train --experiment", "Missing value for flag --experiment"),
        ("train --experimnt=mlp_digits", "did you mean '--experiment'"),
        ("train experiment=mlp_digits", "did you mean '--experiment=mlp_digits'"),
        ("train mlp_digits", "did you mean '--experiment=mlp_digits'"),
        ("train --experiment=mlp_digits steps=5", "did you mean '--set steps=5'"),
        ("train --experiment=mlp_digits nonsense", "everything is a flag"),
        ("train --steps=5", "has no flag --steps; did you mean '--set steps=5'?"),
        ("train --batch_size 5", "did you mean '--set batch_size=VALUE'?"),
        ("train --task.model.hidden=(8,)", "did you mean '--set task.model.hidden=(8,)'?"),
        ("sample --batch_size=5", "choose one of: "),
        ("train --experiment=mlp_digits --split=test", "it belongs to: evaluate"),
        ("train --experiment=mlp_digits --", ""),
        ("train --experiment=mlp_digits -- -x", "train takes nothing after --"),
        ("evaluate", "evaluate needs --workdir=DIR"),
        ("sample", "sample needs --workdir=DIR"),
        ("evaluate --workdir", "Missing value for flag --workdir"),
        ("test -k launch", "pytest's own arguments go after --"),
        ("test --dta", "did you mean '--data'? (pytest's own arguments go after --)"),
        ("test tests/test_launch.py", "pytest's own arguments go after --"),
        ("test --long=perhaps", "--long=perhaps"),
        ("bench --wrong", "bench has no flag --wrong"),
        ("evaluate --undefok=lr --lr=1 --workdir=x", "evaluate has no flag --undefok"),
        ("train --flagfile=/bin/ls", "train has no flag --flagfile"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(command, replace_train, words, wanted):
    reached = []
    if not wanted:
        replace_train(lambda values, rest: reached.append(values) or 0)
    code, out, err = command(*words.split())
    if not wanted:
        assert (code, out, err) == (0, "", "") and reached
        return
    assert code == 2 and not out
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    assert wanted in err


def test_the_fields_that_are_read_are_those_of_the_record():
    from deeplearn.experiment import Experiment, public_fields

    assert _command.experiment_fields() == {field.name for field in public_fields(Experiment)}


def test_a_usage_error_imports_no_jax():
    script = "import sys; from experiments.launch import run\ntry: run({!r})\nexcept ValueError: "
    script += "assert not {{'jax', 'numpy'}} & set(sys.modules)\nelse: raise SystemExit(1)"
    for words in (
        ["trian"],
        ["train", "--experiment=nonsense"],
        ["train", "--steps=5"],
        ["evaluate"],
    ):
        subprocess.run([sys.executable, "-c", script.format(words)], cwd=ROOT, check=True)


def test_the_default_is_marked_in_the_list_and_trained(command, replace_train):
    marked = [line for line in command()[1].splitlines() if line.endswith("(default)")]
    assert [line.split()[0] for line in marked] == ["mlp_digits"]
    assert "default mlp_digits" in command("train", "--help")[1]
    seen = []
    replace_train(lambda values, rest: seen.append((values.experiment, values.set)) or 0)
    assert command("train", "--set=steps=5")[0] == 0
    assert seen == [("mlp_digits", ["steps=5"])]


def test_overrides_keep_their_order_and_name_the_directory(command, replace_train):
    seen = []
    replace_train(lambda values, rest: seen.append(values.set) or 0)
    train = ["train", "--experiment=mlp_digits"]
    assert command(*train, "--set", "b=(1, 2)", "--set=a=x,y=z")[0] == 0
    assert seen == [["b=(1, 2)", "a=x,y=z"]]
    directory = launch.default_workdir("mlp_digits", ["b=1", "a=2"])
    assert re.fullmatch("runs/mlp_digits-[0-9a-f]{6}", directory)
    assert directory == launch.default_workdir("mlp_digits", ["a=2", "b=1"])
    assert directory != launch.default_workdir("mlp_digits", ["a=2", "b=2"])
    assert launch.default_workdir("mlp_digits", []) == "runs/mlp_digits"


@pytest.mark.parametrize("kind", [DataError, Preempted, *Error.__subclasses__()])
def test_an_error_is_its_line_and_its_exit_code(command, replace_train, tmp_path, kind):
    def fail(values, rest):
        raise kind("what, where, why")

    replace_train(fail)
    code, out, err = command("train", "--experiment=mlp_digits", f"--workdir={tmp_path}")
    assert (code, out, err) == (kind.exit_code, "", "error: what, where, why\n")
    assert not list(tmp_path.iterdir())


def test_a_crash_goes_to_the_run_directory(command, replace_train, tmp_path):
    def fail(values, rest):
        raise RuntimeError("first line\nsecond line")

    replace_train(fail)
    workdir = tmp_path / "new" / "run"
    code, out, err = command("train", "--experiment=mlp_digits", f"--workdir={workdir}")
    path = workdir / "crash.txt"
    assert code == 70 and not out
    assert err == f"error: internal error, see {path}: RuntimeError: first line\n"
    text = path.read_text()
    assert text.startswith("./launch.sh train --experiment=mlp_digits ")
    assert "Traceback" in text and text.endswith("second line\n")


def test_a_crash_finds_the_home_directory(command, replace_train, tmp_path, monkeypatch):
    def fail(values, rest):
        raise RuntimeError

    replace_train(fail)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert command("train", "--experiment=mlp_digits", "--workdir=~/run")[0] == 70
    assert (tmp_path / "run" / "crash.txt").exists()
    assert command("train", "--experiment=mlp_digits", "--workdir=~nobody0/run")[0] == 70


def test_an_experiment_that_has_another_name_than_its_file_is_refused(command, monkeypatch):
    code, _, err = command("train", "--experiment=mlp_digits", "--set", "name=mine")
    assert code == 2 and "mlp_digits.py has name='mine'" in err and err.count("\n") == 1
    named = dataclasses.replace(mlp_digits.experiment(), name="copied")
    monkeypatch.setattr(mlp_digits, "experiment", lambda: named)
    code, _, err = command("train", "--experiment=mlp_digits")
    assert code == 2 and "mlp_digits.py has name='copied'" in err and err.count("\n") == 1


def test_a_crash_that_cannot_be_written_is_printed(command, replace_train, tmp_path):
    def fail(values, rest):
        raise RuntimeError("the reason")

    replace_train(fail)
    (tmp_path / "file").touch()
    words = ("train", "--experiment=mlp_digits", f"--workdir={tmp_path}/file/run")
    code, _, err = command(*words)
    assert code == 70 and "Traceback" in err and "the reason" in err


def test_ctrl_c_is_130(command, replace_train):
    def interrupt(values, rest):
        raise KeyboardInterrupt

    replace_train(interrupt)
    assert command("train", "--experiment=mlp_digits")[0] == 130


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("test", ["-n", "3", "--dist", "loadfile"]),
        ("test --long", ["-m", "long", "-n", "3", "--dist", "loadfile"]),
        ("test --data --long -- -k x", ["-m", "data or long", "-k", "x"]),
        ("test -- -x --pdb", ["-x", "--pdb"]),
    ],
)
def test_tests_run_from_the_repository(monkeypatch, command, tmp_path, words, given):
    seen = []
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(pytest, "main", lambda words: seen.append((Path.cwd(), words)) or 1)
    monkeypatch.chdir(tmp_path)
    assert command(*words.split())[0] == 1
    assert seen == [(ROOT, given)]


def test_flags_of_a_mode_are_its_own():
    modes = {
        "a": Mode("", lambda values, rest: 0, {"x": Flag("", "X", default="1")}),
        "b": Mode("", lambda values, rest: 0, {"x": Flag("", "X", default="2")}),
    }
    assert _command.parse(modes, "a", ["--x=3"]).x == "3"
    assert _command.parse(modes, "a", []).x == "1"
    assert _command.parse(modes, "b", []).x == "2"


def test_a_reader_that_goes_away_is_no_crash():
    script = "import os; os.close(1); os.dup2(os.pipe()[1], 1)\n"
    script += "import sys; from experiments.launch import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("prepared", "code", "err"),
    [
        ("os.close(1)", 0, ""),
        (
            "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)",
            7,
            "error: the output cannot be written: No space left on device\n",
        ),
    ],
)
def test_an_output_that_takes_nothing_is_no_crash(prepared, code, err):
    script = f"import os; {prepared}\n"
    script += "import sys; sys.stdout = None if sys.argv[1:] else sys.stdout\n"
    script += "sys.argv[1:] = []; from experiments.launch import main; sys.exit(main())"
    words = ["closed"] if code == 0 else []
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, err)


def test_a_full_output_within_a_mode_is_no_crash(tmp_path):
    """Where the mode prints at once, as `sample` does; `train` stands in for it."""
    script = "import os, sys; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)\n"
    script += "from experiments import launch\n"
    script += "say = lambda values, rest: print('x', flush=True) or 0\n"
    script += "import dataclasses\n"
    script += "launch.MODES['train'] = dataclasses.replace(launch.MODES['train'], run=say)\n"
    script += f"sys.argv[1:] = ['train', '--workdir={tmp_path}']; sys.exit(launch.main())"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    wanted = "error: the output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (7, wanted)
    assert not (tmp_path / "crash.txt").exists()


def test_a_terminal_without_letters_gets_their_numbers():
    command = [sys.executable, "-m", "experiments.launch"]
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0 and "28\\xd728" in done.stdout


def test_a_run_is_rebuilt_from_its_directory(command, tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    train = ["train", "--experiment=mlp_digits", workdir, "--set=steps=4"]
    train += [
        "--set=log_every=2",
        "--set=task.model.hidden=(8,)",
        "--set=optimizer.schedule.warmup=1",
    ]
    code, _, err = command(*train, "--set=batch_size=16")
    assert code == 0, err

    code, out, _ = command("evaluate", workdir)
    assert code == 0
    values = dict(line.split() for line in out.splitlines())
    assert {"validation/accuracy", "test/accuracy", "test/loss"} <= set(values)
    code, out, _ = command("evaluate", workdir, "--split=test")
    assert code == 0
    assert dict(line.split() for line in out.splitlines()) == {
        name: value for name, value in values.items() if name.startswith("test/")
    }

    code, out, _ = command("sample", workdir, "--count=3")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["test", "label", "predicted", "probability"] and len(rows) == 4
    for _, label, predicted, probability in rows[1:]:
        assert {label, predicted} <= set("0123456789") and 0.1 <= float(probability) <= 1

    for words, wanted, exit_code in (
        (["evaluate", workdir, "--split=tset"], "no split 'tset'", 2),
        (["evaluate", workdir + "x"], "no run in", 2),
        (["sample", workdir, "--count=0"], "count=0 must be at least 1", 2),
        (["sample", workdir, "--prompt=a"], "no use for --prompt: the task of this run is", 2),
        ([*train, "--set=batch_size=8"], "batch_size: 16 there, 8 now", 8),
        ([*train, "--set=batch_siz=8"], "did you mean 'batch_size'", 2),
        ([*train, "--set=batch_size=many"], "batch_size=many", 2),
    ):
        code, out, err = command(*words)
        assert code == exit_code and not out
        assert re.fullmatch(r"error: [^\n]+\n", err) and wanted in err, err
    assert not (tmp_path / "run" / "crash.txt").exists()
