"""Tokens as text, as they come."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from deeplearn.data.vocabulary import Vocabulary

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a vocabulary decodes bytes to that are no character."""


def texts(
    prompt: Sequence[int],
    chunks: Iterable[Sequence[int]],
    vocabulary: Vocabulary,
    stop: Sequence[int] = (),
    stop_text: str = "",
) -> Iterator[str]:
    """The text of a prompt, then what each chunk of tokens adds to it, up to a stop token.

    Behind the prompt it also ends before `stop_text`, however that falls into tokens. A character
    of which only some bytes have come waits for the others, and so does what may become the stop.
    """
    tokens = list(prompt)
    begin = len(vocabulary.decode(tokens))
    text, shown = "", 0
    for chunk in itertools.chain([()], chunks):
        added = list(itertools.takewhile(lambda token: token not in stop, chunk))
        tokens += added
        text = vocabulary.decode(tokens)
        ready = len(text.rstrip(UNFINISHED))
        stopped = bool(stop_text) and (end := text.find(stop_text, begin)) >= 0
        if stopped:
            text, ready = text[:end], end
        else:
            ready -= _overlap(text[begin:ready], stop_text)
        if ready > shown:
            yield text[shown:ready]
            shown = ready
        if stopped or len(added) < len(chunk):
            break
    if shown < len(text):
        yield text[shown:]


def _overlap(text: str, stop_text: str) -> int:
    """How many characters at the end of a text are the beginning of `stop_text`."""
    return max((n for n in range(len(stop_text)) if text.endswith(stop_text[:n])), default=0)
