"""The command line: `./launch.sh MODE --flag=value …`; without a mode it lists what there is.

A mistake of the user is one line on stderr and the exit code of its class in `deeplearn.errors`.
Any other exception goes to `crash.txt` in the run directory and exits with 70. JAX is imported by
the modes that need it, so that lists, help and usage errors come at once.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import io
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from deeplearn.errors import Error, StorageError, UsageError, did_you_mean
from experiments import _command, _interop, _sample
from experiments._command import Flag, Mode

INTERNAL_ERROR = 70
INTERRUPTED = 130
BROKEN_PIPE = 141
DEFAULT_EXPERIMENT = "mlp_digits"


def train(values: Any, rest: list[str]) -> int:
    known = _command.experiments()
    if values.experiment not in known:
        hint = did_you_mean(values.experiment, known)
        raise UsageError(f"--experiment={values.experiment} is unknown{hint}")
    values.workdir = values.workdir or default_workdir(values.experiment, values.set)
    import deeplearn
    from deeplearn.overrides import override

    experiment = importlib.import_module(f"experiments.{values.experiment}").experiment()
    experiment = override(experiment, values.set)
    if experiment.name != values.experiment:
        raise UsageError(
            f"the experiment of experiments/{values.experiment}.py has name='{experiment.name}', so"
            " that the other modes would look for it in another file; leave it at the file's name"
        )
    deeplearn.train(experiment, values.workdir)
    return 0


def default_workdir(experiment: str, overrides: Sequence[str]) -> str:
    """runs/NAME, or runs/NAME-HASH: each set of overrides has a directory of its own."""
    if not overrides:
        return f"runs/{experiment}"
    digest = hashlib.sha256("\n".join(sorted(overrides)).encode()).hexdigest()
    return f"runs/{experiment}-{digest[:6]}"


def evaluate(values: Any, rest: list[str]) -> int:
    import deeplearn
    from deeplearn.evaluate import shown, text_examples, text_scores, translations

    run = deeplearn.load(values.workdir)
    splits = [values.split] if values.split else sorted(run.experiment.evaluation)
    if not splits:
        raise UsageError(f"--workdir={values.workdir}: its experiment has no evaluation data")
    for split in splits:
        # The texts first: a run that does not translate is refused at once.
        beams = values.beams
        texts = None if beams is None else translations(run, split, beams)
        metrics = deeplearn.evaluate(run, split)
        if texts is not None:
            metrics |= text_scores(run, split, texts)
        for name, value in metrics.items():
            print(f"{split + '/' + name:<24} {value:.6g}")
        if texts is not None:
            print(shown(text_examples(run, split, texts)))
    return 0


def bench(values: Any, rest: list[str]) -> int:
    from benchmarks.__main__ import main

    return main(values.suite, values.only)


def test(values: Any, rest: list[str]) -> int:
    import pytest

    os.chdir(Path(__file__).resolve().parent.parent)
    tiers = [tier for tier in ("data", "long") if values[tier].value]
    words = ["-m", " or ".join(tiers)] if tiers else []
    # Most of a test is one thread of the compiler. The tests of a file share what is compiled.
    parallel = [] if rest else ["-n", str(min(os.cpu_count() or 1, 8)), "--dist", "loadfile"]
    return int(pytest.main([*words, *parallel, *rest]))


NEEDED_WORKDIR = Flag("the run directory", "DIR", required=True)
OVERRIDES = Flag(
    "change a field, such as optimizer.learning_rate=0.01; repeatable",
    "FIELD=VALUE",
    flags.DEFINE_multi_string,
    (),
)
MODES = {
    "train": Mode(
        "train an experiment, or go on with it where it stopped",
        train,
        {
            "experiment": Flag(
                f"what to train, one of the list below; default {DEFAULT_EXPERIMENT}",
                "NAME",
                default=DEFAULT_EXPERIMENT,
            ),
            "set": OVERRIDES,
            "workdir": Flag(
                "the run directory; default runs/NAME, or runs/NAME-HASH with --set", "DIR"
            ),
        },
    ),
    "evaluate": Mode(
        "print the metrics of a trained model",
        evaluate,
        {
            "workdir": NEEDED_WORKDIR,
            "split": Flag("which evaluation data; default all", "NAME"),
            "beams": Flag(
                "translate too, with N hypotheses, and score the texts", "N", flags.DEFINE_integer
            ),
        },
    ),
    "sample": _sample.MODE,
    **_interop.MODES,
    "bench": Mode(
        "measure against peers and print the ratios",
        bench,
        {
            "suite": Flag("one suite; default all", "NAME"),
            "only": Flag("one measurement of a suite", "NAME"),
        },
    ),
    "test": Mode(
        "run the test suite",
        test,
        {
            "data": Flag("the tests that need datasets", "", flags.DEFINE_boolean, False),
            "long": Flag(
                "the tests that train experiments in full", "", flags.DEFINE_boolean, False
            ),
        },
        rest="for pytest, such as -- -k launch",
    ),
}


def run(words: Sequence[str]) -> int:
    """Carries out one command line, given without the program's name."""
    end = list(words).index("--") if "--" in words else len(words)
    before, rest = list(words[:end]), list(words[end + 1 :])
    asked_for_help = bool({"-h", "-help", "--help"} & set(before))
    if not before or (asked_for_help and before[0].startswith("-")):
        print(_command.describe(MODES, with_flags=asked_for_help))
        return 0
    name = before[0]
    mode = _command.choose(MODES, name)
    if asked_for_help:
        print(_command.describe({name: mode}, with_flags=True))
        return 0
    if rest and not mode.rest:
        raise UsageError(f"{name} takes nothing after --")
    values = _command.parse(MODES, name, before[1:])
    # Grain reads absl's global flags, which this program never fills.
    flags.FLAGS.mark_as_parsed()
    try:
        return mode.run(values, rest)
    except (Error, _OutputError):
        raise
    except Exception as error:
        return _crash(error, values["workdir"].value if "workdir" in values else None, words)


def _crash(error: Exception, workdir: str | None, words: Sequence[str]) -> int:
    try:
        if workdir is None:
            raise OSError
        path = Path(workdir, "crash.txt").expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        text = f"./launch.sh {shlex.join(words)}\n\n{traceback.format_exc()}"
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except (OSError, RuntimeError):  # the latter of a home directory that is not known
        traceback.print_exception(error)
    else:
        what = f"{type(error).__name__}: {error}".partition("\n")[0]
        print(f"error: internal error, see {path}: {what}", file=sys.stderr)
    return INTERNAL_ERROR


class _OutputError(OSError):
    """Standard output cannot be written: of all that may fail in a mode, this is no bug."""


class _Output:
    """Standard output whose own failures are told from others."""

    def __init__(self, stream: io.TextIOWrapper):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes as the stream does."""
        return self._tried(self._stream.write, text)

    def flush(self) -> None:
        """Flushes as the stream does."""
        self._tried(self._stream.flush)

    def _tried(self, action: Callable[..., Any], *arguments: str) -> Any:
        try:
            return action(*arguments)
        except OSError as error:
            raise _OutputError(error.errno, error.strerror) from error


def main() -> int:
    """Runs the command line of this process and returns its exit code."""
    if not isinstance(sys.stdout, io.TextIOWrapper):  # None where the caller has closed it
        return _told(sys.argv[1:])
    # What the terminal has no letters for is shown by number.
    sys.stdout.reconfigure(errors="backslashreplace")
    with contextlib.redirect_stdout(_Output(sys.stdout)):
        return _told(sys.argv[1:])


def _told(words: Sequence[str]) -> int:
    """The exit code of a command line, whose errors are printed."""
    try:
        code = run(words)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except _OutputError as error:
        # Nothing is left to say there, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:  # who read our output has gone, as `| head` does
            return BROKEN_PIPE
        print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
        return StorageError.exit_code


if __name__ == "__main__":
    sys.exit(main())
