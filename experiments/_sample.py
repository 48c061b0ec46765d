"""The mode `sample`: what a trained model says, in the form of its task.

Temperature, guidance and their like are flags: they change what is drawn and not the model, so that
one wants to turn them without training again.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import flags

from deeplearn.errors import UsageError
from experiments._command import Flag, Mode

BEAMS = 4
SAMPLING = {
    "temperature": Flag("0 takes the likeliest token; default 1", "X", flags.DEFINE_float),
    "top_k": Flag("draw from the K likeliest tokens; default all", "K", flags.DEFINE_integer),
    "top_p": Flag("draw from the likeliest of probability P; default 1", "P", flags.DEFINE_float),
    "min_p": Flag("of at least P times the likeliest's; default 0", "P", flags.DEFINE_float),
    "repetition_penalty": Flag(
        "above 1, tokens come back less; default 1", "X", flags.DEFINE_float
    ),
}
DRAWING = {
    "guidance": Flag("how far towards the class; default 1", "W", flags.DEFINE_float),
    "guidance_interval": Flag("guide where LOW < σ/α ≤ HIGH; default everywhere", "LOW,HIGH"),
    "sampler": Flag("the method of a diffusion model, such as heun", "NAME"),
    "steps": Flag("the steps of that method; default 20 at most", "N", flags.DEFINE_integer),
}


def sample(values: Any, rest: list[str]) -> int:
    """Translates, goes on from a prompt, draws pictures or predicts: whatever the task can."""
    import deeplearn
    from deeplearn.tasks.task import Generative

    run = deeplearn.load(values.workdir)
    task = run.experiment.task
    of_task: tuple[str, ...]
    if hasattr(task, "translate"):
        show, of_task = _translate, ("text", "to", "beams")
    elif isinstance(task, Generative):
        show, of_task = _draw, ("label", *DRAWING, "seed")
    elif hasattr(task, "sample"):
        show, of_task = _write, ("prompt", *SAMPLING, "stop", "seed")
    else:
        show, of_task = _predict, ("split",)
    for name in MODE.flags:
        if name not in ("workdir", "count", *of_task) and values[name].value is not None:
            raise UsageError(
                f"sample has no use for --{name}: the task of this run is {type(task).__name__}"
            )
    return show(run, values)


def _translate(run: Any, values: Any) -> int:
    import jax

    from deeplearn.data.vocabulary import SPECIALS
    from deeplearn.step import evaluation_variables

    pairs = run.experiment.train
    if not values.text:
        raise UsageError("sample needs --text=TEXT to translate")
    if not hasattr(pairs, "encode_source"):
        raise UsageError("sample needs training data with vocabularies, such as Pairs of texts")
    if bool(values.to) != pairs.language_token:
        others = [name[1:-1] for name in pairs.source_vocabulary.specials if name not in SPECIALS]
        known = f"sample needs --to, one of: {', '.join(sorted(others))}"
        raise UsageError(known if others else "the model of this run knows one way: leave out --to")
    source = pairs.encode_source(values.text, values.to or "")[None]
    count = pairs.lengths[1] if values.count is None else values.count
    beams = BEAMS if values.beams is None else values.beams
    translate = jax.jit(run.experiment.task.translate, static_argnames=("count", "beams"))
    found = translate(evaluation_variables(run.state), source, count=count, beams=beams)
    print(pairs.target_vocabulary.decode(jax.device_get(found)[0]))
    return 0


def _write(run: Any, values: Any) -> int:
    from deeplearn.data.vocabulary import END
    from deeplearn.sampling.autoregressive import Request
    from deeplearn.sampling.sampler import Sampler
    from deeplearn.sampling.writing import texts
    from deeplearn.step import evaluation_variables

    vocabulary = getattr(run.experiment.train, "vocabulary", None)
    if vocabulary is None:
        raise UsageError(
            "sample writes texts, and the training data of this run have no vocabulary; call"
            f" {type(run.experiment.task).__name__}.sample in Python"
        )
    if values.prompt is None:
        raise UsageError("sample needs --prompt=TEXT to go on from")
    if values.stop == "":
        raise UsageError("--stop= is empty; give it the text that ends the sample, or leave it out")
    stop = (vocabulary.special(END),) if END in vocabulary.specials else ()
    options = {name: values[name].value for name in ("count", *SAMPLING)}
    given = {name: value for name, value in options.items() if value is not None}
    prompt = tuple(map(int, vocabulary.encode(values.prompt)))
    # Where nobody says how many, as many as the model has places for.
    longest = getattr(run.experiment.task.model, "max_length", None)
    if "count" not in given and longest is not None:
        given["count"] = max(1, min(Sampler.count, longest - len(prompt)))
    chunks = run.experiment.task.sample(
        evaluation_variables(run.state),
        _key(values.seed),
        Request((prompt,), Sampler(stop=stop, **given)),
    )
    drawn = (chunk[0] for chunk in chunks)
    for text in texts(prompt, drawn, vocabulary, stop, values.stop or ""):
        print(text, end="", flush=True)
    print()
    return 0


def _key(seed: int | None) -> Any:
    import jax

    if seed is not None and not 0 <= seed < 2**32:
        raise UsageError(f"--seed={seed} must be in [0, 2³²)")
    return jax.random.key(seed or 0)


def _draw(run: Any, values: Any) -> int:
    """Pictures of samples, of the way from one to another, and of the steps of diffusion."""

    from deeplearn import generation
    from deeplearn.report.images import Gallery
    from deeplearn.sampling.images import interval_of, labels_of
    from deeplearn.step import evaluation_variables

    gallery = Gallery(run.experiment.train, run.workdir / "samples")
    options = {name: values[name].value for name in ("count", "label", *DRAWING, "seed")}
    given = {name: value for name, value in options.items() if value is not None}
    # What was asked for is told by the name, so that a picture of something else stays.
    suffix = "".join(f"_{name}={value}" for name, value in given.items())
    rng = _key(given.pop("seed", None))
    if "label" in given:
        given["labels"] = labels_of(given.pop("label"))
    if "guidance_interval" in given:
        given["guidance_interval"] = interval_of(given["guidance_interval"])
    request = dataclasses.replace(generation.overview(run.experiment), **given)
    columns, variables = generation.columns(request), evaluation_variables(run.state)
    x = generation.generate(run.experiment, variables, request, rng)
    print(gallery.save(f"samples{suffix}", x, columns))
    images = x.ndim > 2
    if images:
        between = generation.interpolations(run.experiment, variables, request, rng)
        rows = between.reshape(-1, *between.shape[2:])
        print(gallery.save(f"interpolation{suffix}", rows, between.shape[1]))
    if hasattr(run.experiment.task, "path") and x.ndim < 5:
        count = min(request.count, 2 * columns) if images else request.count
        few = dataclasses.replace(request, count=count)
        path = generation.denoising_path(run.experiment, variables, few, rng)
        print(gallery.animate(f"denoising{suffix}", path, columns))
    return 0


def _predict(run: Any, values: Any) -> int:
    from deeplearn.evaluate import predict

    split = values.split or ("test" if "test" in run.experiment.evaluation else None)
    split = split or next(iter(run.experiment.evaluation), "test")
    truth, predicted = predict(run, split, 8 if values.count is None else values.count)
    name = "label" if "label" in predicted else "target"
    print(f"{split:>8} {name:>12} {'predicted':>12} {'probability' * (name == 'label'):>12}")
    for index, (known, value) in enumerate(zip(truth[name], predicted[name], strict=True)):
        certainty = f"{predicted['probabilities'][index].max():12.4f}" if name == "label" else ""
        print(f"{index:>8} {_cell(known)} {_cell(value)} {certainty}".rstrip())
    return 0


def _cell(value: Any) -> str:
    """A label or target of one example, which may have several numbers."""
    numbers = value.reshape(-1) if value.ndim else [value]
    return " ".join(f"{number:.6g}" for number in numbers).rjust(12)


MODE = Mode(
    "go on from a prompt, translate, draw pictures, or predict beside the truth, by the task",
    sample,
    {
        "workdir": Flag("the run directory", "DIR", required=True),
        "split": Flag("which evaluation data; default test", "NAME"),
        "count": Flag("how many examples, tokens or pictures", "N", flags.DEFINE_integer),
        "prompt": Flag("the text to go on from", "TEXT"),
        **SAMPLING,
        "stop": Flag("a text that ends what is written, and is left out", "TEXT"),
        "label": Flag("classes to draw in turn, or none for no label; default all", "N,…"),
        **DRAWING,
        "seed": Flag("another number draws anew; default 0", "N", flags.DEFINE_integer),
        "text": Flag("the text to translate", "TEXT"),
        "to": Flag("the language to translate into, where there are several", "NAME"),
        "beams": Flag(
            "hypotheses of a translation; default 4, 1 is greedy", "N", flags.DEFINE_integer
        ),
    },
)
