"""Emoji: the bitmaps of a font, on white, split by what they show; a small font is built here."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from fontTools.feaLib.builder import addOpenTypeFeaturesFromString
from fontTools.fontBuilder import FontBuilder
from fontTools.misc import sstruct
from fontTools.ttLib import TTFont, newTable
from fontTools.ttLib.tables import E_B_L_C_ as locator
from fontTools.ttLib.tables.BitmapGlyphMetrics import SmallGlyphMetrics
from fontTools.ttLib.tables.C_B_D_T_ import cbdt_bitmap_format_17
from PIL import Image

from deeplearn.data import emoji
from deeplearn.data.emoji import Emoji, drawings, on_white
from deeplearn.errors import DataError, UsageError

FACES = {f"face{number}": 0x1F600 + number for number in range(40)}
TONES = {"light": 0x1F3FB, "dark": 0x1F3FF}
BITMAPS = [*FACES, *(f"{face}_{tone}" for tone in TONES for face in FACES)]
# A face and a tone are spelled in two ways, one with the selector of pictures in colour.
LIGATURES = "".join(
    f"sub {face} {tone} by {face}_{tone}; sub {face} selector {tone} by {face}_{tone};"
    for face in FACES
    for tone in TONES
)


def png(colour: tuple[int, ...], size: tuple[int, int] = (136, 128)) -> bytes:
    """A picture of one colour within a transparent border of 8 pixels."""
    picture = Image.new("RGBA", size)
    picture.paste(colour, (8, 8, size[0] - 8, size[1] - 8))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def zeros(record, layout: str):
    """A record of a font whose fields are 0."""
    vars(record).update(dict.fromkeys(sstruct.getformat(layout)[1], 0))
    return record


def add_bitmaps(font: TTFont) -> None:
    """A bitmap for each of `BITMAPS`, of a grey of its own."""
    font["CBDT"], font["CBLC"] = newTable("CBDT"), newTable("CBLC")
    font["CBDT"].version = font["CBLC"].version = 3.0
    glyphs = {}
    for number, name in enumerate(BITMAPS):
        glyph = cbdt_bitmap_format_17(b"", font)
        glyph.metrics = zeros(SmallGlyphMetrics(), SmallGlyphMetrics.binaryFormat)
        glyph.imageData = png((number, number, number, 255))
        glyphs[name] = glyph
    font["CBDT"].strikeData = [glyphs]
    index = locator.eblc_index_sub_table_1(b"", font)
    index.names, index.indexFormat, index.imageFormat = list(glyphs), 1, 17
    strike = locator.Strike()
    strike.indexSubTables = [index]
    layouts = locator.bitmapSizeTableFormatPart1, locator.bitmapSizeTableFormatPart2
    for layout in layouts:
        zeros(strike.bitmapSizeTable, layout)
    for direction in ("hori", "vert"):
        lines = zeros(locator.SbitLineMetrics(), locator.sbitLineMetricsFormat)
        setattr(strike.bitmapSizeTable, direction, lines)
    font["CBLC"].strikes = [strike]


@pytest.fixture(scope="module")
def font(tmp_path_factory) -> str:
    """The path of a font of 40 faces, each plain and in two tones."""
    glyphs = [".notdef", *BITMAPS, *TONES, "selector"]
    builder = FontBuilder(1024)
    builder.setupGlyphOrder(glyphs)
    characters = {**FACES, **TONES, "selector": 0xFE0F}
    builder.setupCharacterMap({code: name for name, code in characters.items()})
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1024, 0)))
    builder.setupHorizontalHeader()
    builder.setupPost()
    addOpenTypeFeaturesFromString(builder.font, f"feature ccmp {{ {LIGATURES} }} ccmp;")
    add_bitmaps(builder.font)
    path = tmp_path_factory.mktemp("font") / "emoji.ttf"
    builder.save(path)
    return str(path)


@pytest.fixture
def known(font, monkeypatch) -> str:
    """That font, as if it were the one whose hash is known."""
    with open(font, "rb") as file:
        monkeypatch.setattr(emoji, "SHA256", hashlib.sha256(file.read()).hexdigest())
    emoji._bitmaps.cache_clear()
    yield font
    emoji._bitmaps.cache_clear()


def test_every_bitmap_lies_on_one_side_with_its_tones(known):
    sides = [Emoji(split, size=17, font=known).arrays["x"] for split in ("train", "test")]
    assert sum(map(len, sides)) == len(BITMAPS) and min(map(len, sides)) > 0
    # The grey of a bitmap is its number, and the middle pixel has no other.
    faces = [{int(image[8, 8, 0]) % len(FACES) for image in side} for side in sides]
    assert not faces[0] & faces[1]
    assert [3 * len(side) for side in faces] == [len(side) for side in sides]


def test_pixels_lie_in_minus_1_to_1(known):
    source = Emoji(font=known)
    x = source.gather(np.arange(len(source)))["x"]
    assert x.shape == (len(source), 32, 32, 3) and x.dtype == np.float32
    number = source.arrays["x"][0, 16, 16, 0]
    assert x[0, 16, 16, 0] == pytest.approx(number / 127.5 - 1) and x.max() == 1


def test_a_glyph_stands_for_its_characters_without_tones(font):
    shown = drawings(TTFont(font))
    for face, code in FACES.items():
        assert {shown[name] for name in (face, f"{face}_light", f"{face}_dark")} == {chr(code)}


def test_a_picture_stands_amid_white():
    """Red in the pixels 8 to 128 of the width and 12 to 124 of the height, of 136."""
    image = on_white(png((255, 0, 0, 255)), 136)
    assert image.shape == (136, 136, 3) and image.dtype == np.uint8
    red = (image == [255, 0, 0]).all(2)
    assert red[12:124, 8:128].all() and red.sum() == 112 * 120
    assert (image[~red] == 255).all()
    small = on_white(png((255, 0, 0, 255)), 34)
    assert np.abs(small[5:29, 4:30] - np.array([255, 0, 0])).max() < 9


def test_what_is_half_transparent_is_mixed_with_white():
    image = on_white(png((0, 0, 0, 128)), 136)
    assert abs(int(image[68, 68, 0]) - 127) <= 1


def test_the_colour_of_what_is_not_seen_does_not_bleed():
    """Black below a transparent border would darken the edge of a white picture."""
    assert (on_white(png((255, 255, 255, 255)), 32) == 255).all()


def test_another_font_is_refused_with_the_command_that_brings_the_right_one(font, tmp_path):
    command = "run: sudo apt-get install fonts-noto-color-emoji="
    with pytest.raises(DataError, match=rf"is not the font .* \(SHA-256\); {command}"):
        len(Emoji(font=font))
    with pytest.raises(DataError, match=f"cannot be read .*; {command}"):
        len(Emoji(font=str(tmp_path / "absent.ttf")))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"split": "tests"}, "no split 'tests'; did you mean 'test'"), ({"size": 0}, "size=0 must")],
)
def test_fields_that_cannot_work_are_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        Emoji(**fields)


@pytest.mark.data
def test_the_real_font():
    """Needs the Debian package `fonts-noto-color-emoji`."""
    train, test = Emoji(), Emoji("test")
    assert (len(train), len(test)) == (3489, 437)
    x = np.concatenate([train.arrays["x"], test.arrays["x"]])
    assert x.shape == (3926, 32, 32, 3) and x.mean() == pytest.approx(199.6, abs=0.5)
    assert len({shown for shown, _ in emoji._bitmaps(emoji.FONT)}) == 2038
    # Few drawings are one in this size.
    assert len({image.tobytes() for image in x}) > 3900
