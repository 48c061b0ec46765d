"""Subword vocabularies: byte pair encoding by the `tokenizers` library, read or learned here.

Sennrich, Haddow and Birch, "Neural machine translation of rare words with subword units", 2016;
over bytes as in Radford et al., "Language models are unsupervised multitask learners", 2019.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deeplearn.data.corpus import Corpus
from deeplearn.data.vocabulary import check_special, checked_tokens, utf8
from deeplearn.errors import DataError, UsageError, library

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class _Subwords:
    """Base of a vocabulary that is a tokenizer of the `tokenizers` library."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; a subclass states it."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """V, the special tokens included."""
        return self.tokenizer.get_vocab_size()

    @property
    def specials(self) -> tuple[str, ...]:
        """The names of the special tokens."""
        return tuple(self._special_tokens)

    @functools.cached_property
    def _special_tokens(self) -> dict[str, int]:
        added = sorted(self.tokenizer.get_added_tokens_decoder().items())
        return {token.content: number for number, token in added if token.special}

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the whole tokenizer."""
        return hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()

    def special(self, name: str) -> int:
        """The token of a special name."""
        check_special(name, self.specials)
        return self._special_tokens[name]

    def encode(self, text: str) -> np.ndarray:
        """The tokens (int32, (T,)) of a text."""
        utf8(text)  # the library's own error says nothing of the place
        return np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, tokens: Iterable[int] | np.ndarray) -> str:
        """The text of tokens (T,)."""
        return self.tokenizer.decode(checked_tokens(tokens, self.size).tolist())


@dataclass(frozen=True)
class BPE(_Subwords):
    """The subwords of a `tokenizer.json`; raises `DataError` where there is none at `path`."""

    path: str

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer in the file."""
        tokenizers = library("tokenizers", "a vocabulary of subwords")
        path = Path(self.path).expanduser()
        try:
            tokenizer = tokenizers.Tokenizer.from_str(path.read_text("utf-8"))
        except OSError as error:
            raise DataError(f"no tokenizer at {path} ({error.strerror}); check the path") from error
        except Exception as error:  # what the library raises has no class of its own
            raise DataError(f"{path} is no tokenizer.json ({error}); write it anew") from error
        # A file may cut or fill what it encodes to a length; a text has all of its tokens here.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return _literal(tokenizer)


@dataclass(frozen=True)
class LearnedBPE(_Subwords):
    """At most `size_limit` subwords, learned when first used from the training split of a corpus.

    Where fewer are learned, the last numbers stand for no text: `decode` leaves them out.
    """

    corpus: Corpus
    size_limit: int
    special_names: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """V, that of a model made for it, whose every token can be decoded."""
        return self.size_limit

    @property
    def specials(self) -> tuple[str, ...]:
        """The names of the special tokens; nothing is learned to know them."""
        return self.special_names

    def special(self, name: str) -> int:
        """The token of a special name; they stand first, so that nothing is learned for it."""
        check_special(name, self.special_names)
        return self.special_names.index(name)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, learned once in a process."""
        return _learned(self.corpus, self.size_limit, self.special_names)


def train_bpe(
    texts: Iterable[str], size: int, path: str | Path, specials: tuple[str, ...] = ()
) -> BPE:
    """Learns at most `size` byte-level subwords from texts and writes them to `path` as JSON.

    The same texts in the same order give the same file. Fewer come of texts in which fewer pairs
    occur twice. Raises `UsageError` where `size` leaves no room for 256 bytes and the specials.
    """
    tokenizer = _trained(texts, size, specials)
    Path(path).write_text(tokenizer.to_str(pretty=True), "utf-8")
    return BPE(str(path))


@functools.lru_cache(maxsize=8)
def _learned(corpus: Corpus, size: int, specials: tuple[str, ...]) -> Tokenizer:
    return _trained(corpus.texts("train"), size, specials)


def _trained(texts: Iterable[str], size: int, specials: tuple[str, ...]) -> Tokenizer:
    tokenizers = library("tokenizers", "a vocabulary of subwords")
    if size < 256 + len(specials):
        raise UsageError(
            f"a byte-level vocabulary of {size} leaves no room for 256 bytes and {len(specials)}"
            f" special tokens; give at least {256 + len(specials)}"
        )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=list(specials),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _literal(tokenizer)


def _literal(tokenizer: Tokenizer) -> Tokenizer:
    """Reads the name of a special token in a text as the characters that it consists of."""
    tokenizer.encode_special_tokens = True
    return tokenizer
