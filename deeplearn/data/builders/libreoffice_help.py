"""LibreOffice's help as aligned paragraphs, English to another language; MPL-2.0.

One configuration for each language: `libreoffice_help/de`. Debian's packages hold the same pages in
every language, and a paragraph keeps its element id; pages with ids that both sides have are the
alignment. Prepared by TFDS because parsing two trees of 2,560 pages takes long, and because what is
prepared stays as it is when an update replaces the packages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from deeplearn.data.corpus import chosen
from deeplearn.data.libreoffice_help import LANGUAGES, SPLITS
from deeplearn.errors import DataError

ENGLISH = "en-US"

_PARAGRAPH = re.compile(r"(par|hd|tit)_id")
_VOID = {
    "area",
    "base",
    "br",
    "col",
    "embed",
    "hr",
    "img",
    "input",
    "link",
    "meta",
    "source",
    "wbr",
}

Paragraphs = Mapping[str, Mapping[str, str]]
"""Page → element id → text."""


class Paragraphed(HTMLParser):
    """Collects the text of the elements whose ids mark a paragraph or a heading."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self._id = ""
        self._words: list[str] = []
        # The open elements within a paragraph, and how many of them were open where a hidden began.
        self._open: list[str] = []
        self._hidden: int | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begins a paragraph, or goes one element deeper into it."""
        attributes = dict(attrs)
        name = attributes.get("id") or ""
        if not self._id:
            if _PARAGRAPH.match(name):
                self._id, self._words, self._open, self._hidden = name, [], [tag], None
        elif tag == "br":
            self._words.append(" ")
        elif tag not in _VOID:
            # Of the variants for each platform or application, a script shows one.
            variant = "hidden" in attributes and not name.startswith("default")
            if variant and self._hidden is None:
                self._hidden = len(self._open)
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Leaves an element; that of the paragraph ends it."""
        if not self._id or tag not in self._open:
            return
        while self._open.pop() != tag:
            pass
        if self._hidden is not None and len(self._open) <= self._hidden:
            self._hidden = None
        if not self._open:
            text = " ".join("".join(self._words).split())
            if text:
                self.texts.setdefault(self._id, text)
            self._id = ""

    def handle_data(self, data: str) -> None:
        """Keeps text that is shown."""
        if self._id and self._hidden is None:
            self._words.append(data)


def aligned(english: Paragraphs, other: Paragraphs) -> dict[str, list[tuple[str, str, str, str]]]:
    """Split → (English, translation, page, id) of each different pair, in the order of pages.

    Pages are split by a hash of their path. Left out are paragraphs that were not translated and,
    of a held-out split, those whose English stands in a page of an earlier split, whatever its
    language there: so a held-out source is new to a model of any languages.
    """
    names = list(english)
    rows: dict[str, list[tuple[str, str, str, str]]] = {}
    seen: set[str] = set()
    for split in SPLITS:
        pages = [names[index] for index in chosen(names, split, "LibreOfficeHelp")]
        pairs: dict[tuple[str, str], tuple[str, str]] = {}
        for page in pages:
            for name, source in english[page].items():
                target = other.get(page, {}).get(name, source)
                if target != source and source not in seen:
                    pairs.setdefault((source, target), (page, name))
        rows[split] = [(*pair, *where) for pair, where in pairs.items()]
        seen |= {text for page in pages for text in english[page].values()}
    return rows


with tfds.core.registered.skip_registration():

    class Builder(tfds.core.GeneratorBasedBuilder):
        """Paragraphs of LibreOffice's help in English and a second language."""

        name = "libreoffice_help"
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in LANGUAGES]
        root: ClassVar[str] = "/usr/share/libreoffice/help"

        def _info(self) -> tfds.core.DatasetInfo:
            fields = ("source", "target", "page", "element")
            return tfds.core.DatasetInfo(
                builder=self,
                description=self.__doc__,
                features=tfds.features.FeaturesDict({f: tfds.features.Text() for f in fields}),
                supervised_keys=("source", "target"),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
            language = self.builder_config.name
            # Both trees must be there before one is parsed.
            english, other = [self._tree(each) for each in (ENGLISH, language)]
            rows = aligned(self._paragraphs(english), self._paragraphs(other))
            return {split: self._generate_examples(rows[split]) for split in SPLITS}

        def _generate_examples(
            self, rows: list[tuple[str, str, str, str]]
        ) -> Iterator[tuple[int, dict]]:
            for index, row in enumerate(rows):
                yield index, dict(zip(("source", "target", "page", "element"), row, strict=True))

        def _tree(self, language: str) -> Path:
            tree = Path(self.root) / language / "text"
            if not tree.is_dir():
                packages = f"libreoffice-help-en-us libreoffice-help-{self.builder_config.name}"
                raise DataError(
                    f"LibreOffice's help is not in {tree}; run: sudo apt-get install"
                    f" --no-install-recommends {packages.lower()}"
                )
            return tree

        def _paragraphs(self, tree: Path) -> Paragraphs:
            paragraphs = {}
            for path in sorted(tree.rglob("*.html")):
                parser = Paragraphed()
                parser.feed(path.read_text("utf-8"))
                paragraphs[path.relative_to(tree).as_posix()] = parser.texts
            return paragraphs
