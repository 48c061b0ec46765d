"""Vocabularies: text as tokens and back, each a frozen record that names its content.

Special tokens, such as those that begin, end and pad a sequence, stand first: the special of place
i has the token i. No text encodes to a special token, whatever it holds, and decoding leaves
special tokens out.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from deeplearn.errors import DataError, UsageError, did_you_mean

PAD, BEGIN, END = "<pad>", "<begin>", "<end>"
SPECIALS = (PAD, BEGIN, END)
"""What sequence-to-sequence needs, in this order: padding is token 0."""


class Vocabulary(Protocol):
    """Text ↔ tokens; a frozen dataclass in practice."""

    @property
    def size(self) -> int:
        """V, the number of tokens, the special ones included."""
        ...

    @property
    def specials(self) -> tuple[str, ...]:
        """The names of the special tokens."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what decides the tokens of a text."""
        ...

    def special(self, name: str) -> int:
        """The token of a special name."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """The tokens (int32, (T,)) of a text."""
        ...

    def decode(self, tokens: Iterable[int] | np.ndarray) -> str:
        """The text of tokens (T,)."""
        ...


class _Table:
    """Base of a vocabulary whose special tokens are those of the field `specials`."""

    specials: tuple[str, ...]

    @property
    def size(self) -> int:
        """V, the special tokens included; a subclass states it."""
        raise NotImplementedError

    @property
    def digest(self) -> str:
        """SHA-256 of the fields."""
        return hashlib.sha256(repr(self).encode("utf-8", "backslashreplace")).hexdigest()

    def special(self, name: str) -> int:
        """The token of a special name."""
        check_special(name, self.specials)
        return self.specials.index(name)

    def _ordinary(self, tokens: Iterable[int] | np.ndarray) -> np.ndarray:
        """The tokens (int64) without special ones, counted from the first that is not special."""
        shifted = checked_tokens(tokens, self.size) - len(self.specials)
        return shifted[shifted >= 0]


@dataclass(frozen=True)
class Bytes(_Table):
    """The 256 bytes of UTF-8: every text has tokens, every token a meaning."""

    specials: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """256 and the special tokens."""
        return 256 + len(self.specials)

    def encode(self, text: str) -> np.ndarray:
        """The bytes (int32, (T,)) of a text; raises `DataError` where it has no UTF-8 form."""
        return np.frombuffer(utf8(text), np.uint8).astype(np.int32) + np.int32(len(self.specials))

    def decode(self, tokens: Iterable[int] | np.ndarray) -> str:
        """The text of tokens (T,); bytes that are no UTF-8 become the replacement character."""
        return self._ordinary(tokens).astype(np.uint8).tobytes().decode(errors="replace")


@dataclass(frozen=True)
class Characters(_Table):
    """The characters of an alphabet, a token each, in its order."""

    alphabet: str
    specials: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.alphabet:
            raise UsageError("Characters: the alphabet is empty; give the characters of the text")
        for place, character in enumerate(self.alphabet):
            if character in self.alphabet[:place]:
                raise UsageError(
                    f"Characters: {character!r} is twice in the alphabet; give it once"
                )

    @classmethod
    def of(cls, texts: Iterable[str], specials: tuple[str, ...] = ()) -> Characters:
        """The sorted characters of some texts."""
        return cls("".join(sorted(set().union(*texts))), specials)

    @property
    def size(self) -> int:
        """The characters and the special tokens."""
        return len(self.alphabet) + len(self.specials)

    @functools.cached_property
    def _tokens(self) -> np.ndarray:
        """Code point → token, −1 where the alphabet lacks it."""
        codes = _code_points(self.alphabet)
        table = np.full(codes.max() + 1, -1, np.int32)
        table[codes] = np.arange(len(codes)) + len(self.specials)
        return table

    def encode(self, text: str) -> np.ndarray:
        """The tokens (int32, (T,)) of a text; raises `DataError` for a character not in it."""
        codes = _code_points(text)
        tokens = self._tokens[np.minimum(codes, len(self._tokens) - 1)]
        outside = (tokens < 0) | (codes >= len(self._tokens))
        if outside.any():
            place = int(outside.argmax())
            raise DataError(
                f"character {text[place]!r} at place {place} is not among the {len(self.alphabet)}"
                " of the alphabet; remove it from the text or add it to the alphabet"
            )
        return tokens

    def decode(self, tokens: Iterable[int] | np.ndarray) -> str:
        """The text of tokens (T,)."""
        return "".join([self.alphabet[token] for token in self._ordinary(tokens)])


@dataclass(frozen=True)
class Symbols(_Table):
    """Written symbols with a space between them, such as phonemes, a token each."""

    symbols: tuple[str, ...]
    specials: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for place, symbol in enumerate(self.symbols):
            if symbol in self.symbols[:place]:
                raise UsageError(f"Symbols: '{symbol}' is there twice; give it once")

    @property
    def size(self) -> int:
        """The symbols and the special tokens."""
        return len(self.symbols) + len(self.specials)

    @functools.cached_property
    def _tokens(self) -> dict[str, int]:
        return {symbol: i + len(self.specials) for i, symbol in enumerate(self.symbols)}

    def encode(self, text: str) -> np.ndarray:
        """The tokens (int32, (T,)) of a text; raises `DataError` for an unknown symbol."""
        words = text.split()
        for place, word in enumerate(words):
            if word not in self._tokens:
                hint = did_you_mean(word, self.symbols)
                raise DataError(f"symbol '{word}' at place {place} is not in the vocabulary{hint}")
        return np.array([self._tokens[word] for word in words], np.int32)

    def decode(self, tokens: Iterable[int] | np.ndarray) -> str:
        """The symbols of tokens (T,) with a space between them."""
        return " ".join([self.symbols[token] for token in self._ordinary(tokens)])


def checked_tokens(tokens: Iterable[int] | np.ndarray, size: int) -> np.ndarray:
    """The tokens (int64, (T,)); raises `DataError` naming the first outside the vocabulary."""
    numbers = np.asarray(tokens if isinstance(tokens, np.ndarray) else list(tokens), np.int64)
    outside = (numbers < 0) | (numbers >= size)
    if outside.any():
        place = int(outside.argmax())
        raise DataError(
            f"token {numbers[place]} at place {place} is outside the vocabulary of {size}; decode"
            " with the vocabulary that the tokens were made with"
        )
    return numbers


def check_special(name: str, specials: tuple[str, ...]) -> None:
    """Raises `UsageError` where a vocabulary lacks a special token."""
    if name not in specials:
        hint = did_you_mean(name, specials) if specials else "; make it with specials=SPECIALS"
        raise UsageError(f"the vocabulary has no special token '{name}'{hint}")


def utf8(text: str) -> bytes:
    """The bytes of a text; raises `DataError` naming a character that has none (half a pair)."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        character = text[error.start]
        raise DataError(
            f"character {character!r} at place {error.start} has no UTF-8 form; remove it"
        ) from error


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
