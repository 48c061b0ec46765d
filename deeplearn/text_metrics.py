"""Metrics of generated text, on the host: error rates, exact matches, BLEU and chrF.

A module beside `metrics.py`, whose metrics are means of arrays inside a compiled step: these take
lists of texts, run after decoding, and two of them are figures of a whole corpus that do not add.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import jax.numpy as jnp

from deeplearn.errors import UsageError, library
from deeplearn.types import Mean

Symbols = Sequence[Hashable]
"""A text, by characters, or any sequence of words, phonemes or tokens."""


def edit_distance(first: Symbols, second: Symbols) -> int:
    """The fewest insertions, deletions and replacements that turn one sequence into the other.

    The columns of Levenshtein's table as the bits of two integers: where it rises and where it
    falls (Myers, "A fast bit-vector algorithm for approximate string matching based on dynamic
    programming", 1999, in the form of Hyyrö, 2003).
    """
    if not first:
        return len(second)
    places: dict[Hashable, int] = {}
    for place, symbol in enumerate(first):
        places[symbol] = places.get(symbol, 0) | 1 << place
    whole, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    rises, falls, distance = whole, 0, len(first)
    for symbol in second:
        equal = places.get(symbol, 0)
        diagonal = (((equal & rises) + rises) ^ rises) | equal | falls
        up = falls | ~(diagonal | rises)
        down = rises & diagonal
        distance += bool(up & last) - bool(down & last)
        up = up << 1 | 1
        rises = (down << 1 | ~(diagonal | up)) & whole
        falls = diagonal & up & whole
    return distance


def error_rate(
    hypotheses: Sequence[Symbols], references: Sequence[Sequence[Symbols]], words: bool = False
) -> Mean:
    """Edit distance to the best reference over its length, summed over all: phoneme error rate.

    `references[i]` are the right answers for `hypotheses[i]`; the best is the one of the smallest
    distance for its length. Texts are compared by character (character error rate), or by what
    stands between spaces where `words` is True (word error rate; phonemes written with spaces).
    """
    _check_counts(hypotheses, references)
    split = (lambda text: str(text).split()) if words else (lambda text: text)
    errors = lengths = 0
    for hypothesis, variants in zip(hypotheses, references, strict=True):
        scored = [
            (edit_distance(split(hypothesis), symbols), len(symbols))
            for symbols in map(split, variants)
        ]
        distance, length = min(scored, key=lambda score: (score[0] / max(score[1], 1), -score[1]))
        errors += distance
        lengths += length
    return _mean(errors, lengths)


def exact_match(hypotheses: Sequence[Symbols], references: Sequence[Sequence[Symbols]]) -> Mean:
    """How often a hypothesis is one of its references; 1 − this is the word error rate of words."""
    _check_counts(hypotheses, references)
    hits = [each in variants for each, variants in zip(hypotheses, references, strict=True)]
    return _mean(sum(hits), len(hits))


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of a corpus, 0 to 100, one reference each, as sacrebleu computes it by default.

    Papineni et al., "BLEU: a method for automatic evaluation of machine translation", 2002; Post,
    "A call for clarity in reporting BLEU scores", 2018.
    """
    _check_counts(hypotheses, references)
    metric = library("sacrebleu", "BLEU").BLEU()
    return float(metric.corpus_score(list(hypotheses), [list(references)]).score)


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """chrF2 of a corpus, 0 to 100, one reference each, as sacrebleu computes it by default.

    Popović, "chrF: character n-gram F-score for automatic MT evaluation", 2015.
    """
    _check_counts(hypotheses, references)
    metric = library("sacrebleu", "chrF").CHRF()
    return float(metric.corpus_score(list(hypotheses), [list(references)]).score)


def _mean(total: int, weight: int) -> Mean:
    return Mean(jnp.asarray(total, jnp.float32), jnp.asarray(weight, jnp.float32))


def _check_counts(hypotheses: Sequence, references: Sequence) -> None:
    if len(hypotheses) != len(references) or not hypotheses:
        raise UsageError(
            f"{len(hypotheses)} hypotheses and {len(references)} references cannot be scored; give"
            " as many of each, and at least one"
        )
