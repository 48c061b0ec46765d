from __future__ import annotations

from pathlib import Path

import pytest

from deeplearn.data.builders.libreoffice_help import Builder, Paragraphed, aligned
from deeplearn.data.libreoffice_help import SPLITS, LibreOfficeHelp
from deeplearn.data.pairs import Pairs
from deeplearn.data.subwords import LearnedBPE
from deeplearn.data.vocabulary import SPECIALS
from deeplearn.errors import DataError, UsageError

SWITCH = (
    '<span class="switchinline" id="swlnsys_1"><span hidden="true" id="MAC_1" class="MAC">'
    '<span class="emph">Command</span></span><span hidden="true" id="default_1">'
    '<span class="emph">Ctrl</span></span></span>'
)
PAGE = f"""<html><head><title>Title</title></head><body><div id="DisplayArea">
<h1 id="hd_id1" dir="auto">A heading</h1>
<p id="par_id2" class="paragraph">Press {SWITCH}+<em>S</em>
  &amp; go <a href="x">on</a>.<br>Next</p>
<p id="par_id3"><img src="icon.png"></p>
<p id="other">No paragraph.</p><p>Nor this.</p>
<td id="par_id4"><p>In a cell</p></td>
</div></body></html>"""
PAGES = 60


def read(page: str) -> dict[str, str]:
    parser = Paragraphed()
    parser.feed(page)
    return parser.texts


def test_paragraphs_are_the_text_that_a_reader_sees():
    assert read(PAGE) == {
        "hd_id1": "A heading",
        "par_id2": "Press Ctrl+S & go on. Next",
        "par_id4": "In a cell",
    }


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A tree of help in three languages: each page has own paragraphs and one that all share."""
    root = tmp_path / "help"
    for language in ("en-US", "de", "pt-BR"):
        for number in range(PAGES):
            path = root / language / "text" / f"part{number % 3}" / f"{number}.html"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [f"{language} page {number}", f"{language} shared", "the same", language]
            lines[3] = f"{language} only" if language == "en-US" else f"page {number}"
            path.write_text(
                "".join(f'<p id="par_id{place}">{line}</p>' for place, line in enumerate(lines))
            )
    monkeypatch.setattr(Builder, "root", str(root))
    return root


def check(corpus: LibreOfficeHelp) -> None:
    """No source is in two splits, nothing is untranslated or twice, and `all` is everything."""
    parts = {split: corpus.pairs(split) for split in SPLITS}
    sources = [{pair.source for pair in parts[split]} for split in SPLITS]
    assert all(sources) and len(set.union(*sources)) == sum(map(len, sources))
    assert all(pair.source != pair.target for part in parts.values() for pair in part)
    for part in parts.values():
        assert len(set(part)) == len(part)
    assert sorted(sum(parts.values(), [])) == sorted(corpus.pairs("all"))


def test_a_tree_becomes_aligned_pairs(root, tmp_path):
    corpus = LibreOfficeHelp(("de", "pt-BR"), str(tmp_path / "tfds"))
    check(corpus)
    pairs = corpus.pairs("all")
    assert {pair.language for pair in pairs} == {"de", "pt-BR"}
    for pair in pairs:
        if pair.source.startswith("en-US page"):
            assert pair.target == pair.source.replace("en-US", pair.language)
    pages = [p for p in pairs if p.language == "de" and p.source.startswith("en-US page")]
    assert len(pages) == PAGES
    shared = [pair.target for pair in corpus.pairs("train") if pair.source == "en-US shared"]
    assert shared == ["de shared", "pt-BR shared"]
    with pytest.raises(UsageError, match="no split 'valid'; did you mean 'validation'"):
        corpus.pairs("valid")


def test_a_held_out_source_is_new_even_where_training_lacks_its_translation():
    english = {f"{i}.html": {"a": f"own {i}", "b": "shared"} for i in range(PAGES)}
    other = {page: {"a": texts["a"] + "!", "b": "shared!"} for page, texts in english.items()}
    rows = aligned(english, other)
    # Without the translations of the training pages, the shared source must not move to a test.
    training = {page for *_, page, _ in rows["train"]} | {f"{i}.html" for i in range(PAGES)}
    training -= {page for split in SPLITS[1:] for *_, page, _ in rows[split]}
    rows = aligned(english, {page: t for page, t in other.items() if page not in training})
    assert rows["train"] == [] and rows["test"]
    assert "shared" not in {row[0] for split in SPLITS for row in rows[split]}


def test_pairs_of_several_languages_serve_one_model(root, tmp_path):
    corpus = LibreOfficeHelp(("de", "pt-BR"), str(tmp_path / "tfds"))
    vocabulary = LearnedBPE(corpus, 300, (*SPECIALS, "<de>", "<pt-BR>"))
    pairs = Pairs(corpus, "train", vocabulary, vocabulary, 32, 32, language_token=True)
    first = set(pairs.arrays["source"][:, 0])
    assert first == {vocabulary.special("<de>"), vocabulary.special("<pt-BR>")}
    assert pairs.dropped == 0 and len(pairs) == len(corpus.pairs("train"))


def test_a_missing_language_is_named_with_its_command(root, tmp_path):
    with pytest.raises(DataError, match="run: sudo apt-get install .*-us libreoffice-help-zh-cn"):
        LibreOfficeHelp(("zh-CN",), str(tmp_path / "tfds")).pairs("train")


@pytest.mark.data
def test_the_real_help(tmp_path):
    check(corpus := LibreOfficeHelp(("de",), str(tmp_path)))
    assert len(corpus.pairs("all")) > 30_000
