"""The modes that bring models in and out: `import` and `export`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from deeplearn.errors import UsageError, did_you_mean
from experiments._command import Flag, Mode

FORMATS = ("safetensors", "stablehlo")


def import_(values: Any, rest: list[str]) -> int:
    """Brings a Hugging Face directory into our naming: verified, fp32, stacked and fused.

    The target is what `load_variables` reads for the model of that size: as fast as the disk, with
    no table of names between. `from_pretrained` reads the source itself and needs no import.
    """
    import jax

    from deeplearn.interop.native import save_variables
    from deeplearn.interop.pretrained import from_pretrained

    model, variables = from_pretrained(values.source)
    save_variables(values.target, model, variables)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    print(f"{values.target} holds a {type(model).__name__} of {count:,} numbers")
    return 0


def export(values: Any, rest: list[str]) -> int:
    """Writes the trained model, without the units and the tokenizer that its task may add.

    safetensors is a Hugging Face directory where a family there has such a model with all its
    fields, else a directory of our naming, which `load_variables` reads.
    """
    if values.format not in FORMATS:
        hint = did_you_mean(values.format, FORMATS)
        raise UsageError(f"--format={values.format} is not known{hint}")
    import jax

    import deeplearn
    from deeplearn.interop.native import save_variables
    from deeplearn.interop.pretrained import expressed, save_pretrained
    from deeplearn.step import evaluation_variables

    run = deeplearn.load(values.workdir)
    model = getattr(run.experiment.task, "model", None)
    if model is None:
        task = type(run.experiment.task).__name__
        raise UsageError(f"export writes one model, and the task of this run, {task}, has no such")
    variables = jax.device_get(evaluation_variables(run.state))
    if values.format == "stablehlo":
        form = _export_stablehlo(run, model, variables, Path(values.target).expanduser())
    else:
        try:
            expressed(model, variables)
        except UsageError:
            save_variables(values.target, model, variables)
            form = f"{type(model).__name__} under our own names"
        else:
            save_pretrained(values.target, model, variables)
            form = "a Hugging Face directory"
    print(f"{values.target} holds {form}")
    return 0


def _export_stablehlo(run: Any, model: Any, variables: Any, target: Path) -> str:
    from deeplearn.interop.stablehlo import export_stablehlo
    from deeplearn.models.sequence import SequenceModel
    from deeplearn.report.files import replace

    batch = run.experiment.train_dataset().batch(0, slice(0, 1))
    call = inspect.signature(type(model).__call__).parameters.values()
    needed = [
        each.name
        for each in call
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    if len(needed) != 2:  # the module itself, and one input
        raise UsageError(
            f"stablehlo holds a model of one input, and {type(model).__name__} reads"
            f" {', '.join(needed[1:])}; export safetensors"
        )
    if "x" in batch:
        example = batch["x"]
    elif "tokens" in batch:
        example = batch["tokens"][:, : -1 if isinstance(model, SequenceModel) else None]
    else:
        raise UsageError("stablehlo holds a model of one input; export safetensors")
    if target.exists():
        raise UsageError(f"--target={target} exists; choose a new file")
    if not target.parent.is_dir():
        raise UsageError(f"--target={target}: there is no directory {target.parent}; make it")
    replace(target, export_stablehlo(model, variables, example))
    inputs = ", ".join(["any number", *map(str, example.shape[1:])])
    return f"StableHLO for inputs ({inputs}) of {example.dtype}"


MODES = {
    "import": Mode(
        "bring a Hugging Face directory into our naming",
        import_,
        {
            "source": Flag("its directory: config.json and safetensors", "DIR", required=True),
            "target": Flag("a new directory", "DIR", required=True),
        },
    ),
    "export": Mode(
        "write a trained model for other programs",
        export,
        {
            "workdir": Flag("the run directory", "DIR", required=True),
            "target": Flag("a new directory, or file of stablehlo", "PATH", required=True),
            "format": Flag(
                f"one of: {', '.join(FORMATS)}; default safetensors", "NAME", default="safetensors"
            ),
        },
    ),
}
