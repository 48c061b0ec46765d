"""The installation: launch.sh makes its environment once; the lock has what pyproject needs."""

from __future__ import annotations

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent

# In the place of Python: makes environments that hold itself, prints what else it is asked to run.
PYTHON = """#!/bin/sh
case "$1 $2" in
  -c*) echo "$0" ;;
  "-m venv")
    rm -rf "$6" && mkdir -p "$6/bin" "$6/lib/python3.11/site-packages" && cp "$0" "$6/bin/python"
    echo "prompt = 'deeplearn'" >"$6/pyvenv.cfg" ;;
  "-m pip") sleep 0.2; [ -z "$PIP_FAILS" ] ;;
  *) echo "$@" ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A directory with launch.sh and an environment that lacks only its stamp."""
    root = tmp_path / "a clone"
    (root / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "launch.sh", root)
    (root / "requirements.lock").write_text("numpy==1\n")
    for python in (tmp_path / "python", root / ".venv" / "bin" / "python"):
        python.write_text(PYTHON)
        python.chmod(0o755)
    return root


def start(script: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script, *words],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=script.parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )


def stamp(clone: Path, accelerator: str = "cpu") -> None:
    lock = subprocess.check_output(["cksum"], input=(clone / "requirements.lock").read_bytes())
    (clone / ".venv" / "launch.stamp").write_text(f"{accelerator} {lock.decode()}")


@pytest.mark.parametrize("accelerator", ["cpu", "cuda12", "tpu"])
def test_a_made_environment_is_used_from_anywhere(clone, accelerator):
    stamp(clone, accelerator)
    link = clone.parent / "links" / "launch"
    link.parent.mkdir()
    link.symlink_to("../a clone/launch.sh")
    chosen = {} if accelerator != "cpu" else {"DEEPLEARN_ACCELERATOR": "cpu"}
    for script in (clone / "launch.sh", link):
        done = start(script, "train", "--workdir=a b", **chosen)
        assert done.stdout == "-P -m experiments.launch train --workdir=a b\n", done.stderr
        assert not done.stderr and done.returncode == 0


@pytest.mark.parametrize("damage", ["no stamp", "another lock", "another accelerator", "no python"])
def test_another_environment_is_made_anew(clone, damage):
    stamp(clone, "cuda12" if damage == "another accelerator" else "cpu")
    if damage == "no stamp":
        (clone / ".venv" / "launch.stamp").unlink()
    elif damage == "another lock":
        (clone / "requirements.lock").write_text("numpy==2\n")
    elif damage == "no python":
        (clone / ".venv" / "bin" / "python").unlink()
    done = start(clone / "launch.sh", PYTHON="false", DEEPLEARN_ACCELERATOR="cpu")
    assert done.returncode == 2 and not done.stdout
    assert re.fullmatch(r"error: no Python 3.11 or newer among: false[^\n]+\n", done.stderr)


def test_an_environment_of_somebody_else_is_kept(clone):
    (clone / ".venv" / "pyvenv.cfg").write_text("home = /usr/bin\n")
    done = start(clone / "launch.sh", PYTHON=sys.executable, DEEPLEARN_ACCELERATOR="cpu")
    assert done.returncode == 2
    assert re.fullmatch(r"error: \S.*/\.venv was not made by launch.sh[^\n]+\n", done.stderr)
    assert (clone / ".venv" / "bin" / "python").exists()


def test_a_set_up_that_fails_is_tried_again(clone):
    settings = {"PYTHON": str(clone.parent / "python"), "DEEPLEARN_ACCELERATOR": "cpu"}
    for _ in range(2):
        done = start(clone / "launch.sh", PIP_FAILS="1", **settings)
        assert done.returncode == 2 and not done.stdout
        assert "making the environment in .venv for cpu" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: pip could not install")
    for times_made in (1, 0):
        done = start(clone / "launch.sh", "--help", **settings)
        assert done.stdout == "-P -m experiments.launch --help\n"
        assert done.stderr.count("making the environment") == times_made
    site = clone / ".venv" / "lib" / "python3.11" / "site-packages"
    assert (site / (site / "deeplearn.pth").read_text().strip()).resolve() == clone


def test_two_set_ups_at_once_make_one_environment(clone):
    settings = {"PYTHON": str(clone.parent / "python"), "DEEPLEARN_ACCELERATOR": "cpu"}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: start(clone / "launch.sh", **settings), range(2)))
    assert [done.stdout for done in both] == ["-P -m experiments.launch\n"] * 2
    assert sum("making the environment" in done.stderr for done in both) == 1


def test_a_driver_that_appears_brings_its_environment(clone):
    stamp(clone, "cpu")
    tools = clone.parent / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text("#!/bin/sh\n")
    (tools / "nvidia-smi").chmod(0o755)
    settings = {"PYTHON": str(clone.parent / "python")}
    with_driver = {"PATH": f"{tools}:{os.environ['PATH']}", **settings}
    assert "for cuda12 with" in start(clone / "launch.sh", **with_driver).stderr
    # What was made for an accelerator also serves where there is none, but for an order.
    for later in (with_driver, settings):
        assert not start(clone / "launch.sh", **later).stderr
    ordered = start(clone / "launch.sh", DEEPLEARN_ACCELERATOR="cpu", **with_driver)
    assert "for cpu with" in ordered.stderr


def test_an_unknown_accelerator_is_refused(clone):
    done = start(clone / "launch.sh", DEEPLEARN_ACCELERATOR="gpu")
    assert done.returncode == 2
    assert done.stderr == (
        "error: DEEPLEARN_ACCELERATOR=gpu; choose one of: cpu, cuda12, cuda13, tpu\n"
    )


def locked(python: str) -> dict[str, Version]:
    """Name → version that the lock has for a Python version on Linux."""
    pins = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line and line[0] not in " #":
            requirement = Requirement(line.rstrip("\\"))
            environment = {"python_full_version": python, "sys_platform": "linux"}
            if not requirement.marker or requirement.marker.evaluate(environment):
                (specifier,) = requirement.specifier
                assert specifier.operator == "==" and requirement.name not in pins
                pins[requirement.name] = Version(specifier.version)
    return pins


@pytest.mark.parametrize("python", ["3.11.7", "3.12.1", "3.13.0"])
def test_the_lock_has_what_the_project_needs(python):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pins = locked(python)
    locked_extras = (*extras["data"], *extras["dev"], *extras["report"])
    for text in (*project["dependencies"], *locked_extras):
        requirement = Requirement(text)
        name = requirement.name.lower().replace("_", "-")
        assert pins[name] in requirement.specifier, text
    assert str(pins["jax"]) == str(pins["jaxlib"]) != "0.10.2"
    assert (pins["jax"] >= Version("0.12")) == (python >= "3.12")
    assert "torch" not in pins and "tensorflow" not in pins


def test_the_lock_has_hashes_and_no_address():
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[a-z0-9])", text)[1:]
    assert len(entries) > 50
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text and "--index" not in text.replace("--no-emit-index-url", "")


def test_commits_are_checked_by_the_commands_of_ci():
    hooks = re.findall(r"entry: (.+)", (ROOT / ".pre-commit-config.yaml").read_text())
    steps = (ROOT / ".ci" / "run").read_text().splitlines()
    assert len(hooks) == 3
    assert [hook.removeprefix(".venv/bin/") for hook in hooks] == steps[-4:-1]
