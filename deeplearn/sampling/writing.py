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
) -> Iterator[str]:
    """The text of a prompt, then what each chunk of tokens adds to it, up to a stop token.

    A character of which only some bytes have come waits for the others.
    """
    tokens = list(prompt)
    text, shown = "", 0
    for chunk in itertools.chain([()], chunks):
        added = list(itertools.takewhile(lambda token: token not in stop, chunk))
        tokens += added
        text = vocabulary.decode(tokens)
        ready = len(text.rstrip(UNFINISHED))
        if ready > shown:
            yield text[shown:ready]
            shown = ready
        if len(added) < len(chunk):
            break
    if shown < len(text):
        yield text[shown:]
