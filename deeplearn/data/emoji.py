"""3,926 emoji in colour, on white: the bitmaps of Noto Color Emoji, split by what they show.

Debian's package fonts-noto-color-emoji 2.042 (SIL Open Font License) draws each in 136 × 128 pixels
(table CBDT). The font's table of ligatures tells which characters a bitmap stands for: some 2,000
drawings, many of them in several tones of the skin, which fall on one side of the split together.

A plain reader: it takes a second or two, so a prepared copy would only add a place where it can be
stale.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deeplearn.data.memory import InMemory
from deeplearn.data.split import text_places
from deeplearn.errors import DataError, UsageError, did_you_mean, library

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
"""Where Debian puts it."""
VERSION = "2.042-0+deb12u1"
SHA256 = "e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec"
"""Of the font file of that version of the package."""

PLACES = {"train": (0.0, 0.9), "test": (0.9, 1.0)}
"""Split → the range of places that it takes."""

# Nothing in the place of the five tones of Fitzpatrick's scale.
_WITHOUT_TONES = dict.fromkeys(range(0x1F3FB, 0x1F400))


@dataclass(frozen=True)
class Emoji(InMemory):
    """Images x float32 (`size`, `size`, 3) in [−1, 1] of a split.

    `font` is the file. Raises `DataError` with the command that brings it where it is missing or
    another one.
    """

    mean = (0.5,)
    std = (0.5,)

    split: str = "train"
    size: int = 32
    font: str = FONT

    def __post_init__(self) -> None:
        if self.split not in PLACES:
            raise UsageError(
                f"Emoji have no split '{self.split}'{did_you_mean(self.split, PLACES)}"
            )
        if self.size < 1:
            raise UsageError(f"Emoji: size={self.size} must be 1 or more, pixels of a side")

    def load(self) -> Mapping[str, np.ndarray]:
        """The pixels, uint8."""
        bitmaps = _bitmaps(self.font)
        place = text_places(drawing for drawing, _ in bitmaps)
        start, stop = PLACES[self.split]
        kept = np.flatnonzero((start <= place) & (place < stop))
        images = [on_white(bitmaps[number][1], self.size) for number in kept]
        return {"x": np.stack(images)}


def on_white(png: bytes, size: int) -> np.ndarray:
    """The picture in a PNG file amid a white square, as pixels uint8 (size, size, 3)."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    side = max(picture.size)
    square = Image.new("RGBA", (side, side), "white")
    # Made opaque before it is resized: colours are not defined where nothing is seen.
    square.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(square.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))


@functools.cache
def _bitmaps(path: str) -> list[tuple[str, bytes]]:
    """The drawing, as characters, and the PNG file of each bitmap, in the order of the font."""
    command = f"run: sudo apt-get install fonts-noto-color-emoji={VERSION}"
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {command}") from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise DataError(
            f"{path} is not the font of fonts-noto-color-emoji {VERSION} (SHA-256); {command}"
            " or set font to a file of that version"
        )
    font = library("fontTools.ttLib", "reading emoji").TTFont(io.BytesIO(content), lazy=True)
    shown = drawings(font)
    (strike,) = font["CBDT"].strikeData
    return [(shown[name], glyph.imageData) for name, glyph in strike.items()]


def drawings(font: Any) -> dict[str, str]:
    """Glyph of a `TTFont` → the characters that it stands for, without tones of the skin."""
    characters = {name: chr(code) for code, name in font.getBestCmap().items()}
    texts = {name: [text] for name, text in characters.items()}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            for first, ligatures in getattr(table, "ligatures", {}).items():
                for ligature in ligatures:
                    parts = [first, *ligature.Component]
                    text = "".join(characters[part] for part in parts)
                    texts.setdefault(ligature.LigGlyph, []).append(text)
    # Of several spellings the least, so that no order of tables matters.
    return {
        name: min(text.translate(_WITHOUT_TONES) for text in each) for name, each in texts.items()
    }
