from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplearn.errors import UsageError
from deeplearn.text_metrics import bleu, chrf, edit_distance, error_rate, exact_match

WORD = st.text("abc", max_size=9)


@functools.cache
def plain(first: str, second: str) -> int:
    """Levenshtein's distance by its definition."""
    if not first or not second:
        return len(first) + len(second)
    return min(
        plain(first[1:], second) + 1,
        plain(first, second[1:]) + 1,
        plain(first[1:], second[1:]) + (first[0] != second[0]),
    )


@given(WORD, WORD)
def test_edit_distance_equals_its_definition(first, second):
    assert edit_distance(first, second) == plain(first, second)
    assert edit_distance(list(first), tuple(second)) == plain(first, second)


def test_edit_distance_of_more_symbols_than_a_machine_word():
    # A rising row of distinct numbers: what is cut out must be deleted, what is new inserted.
    first = list(range(300))
    second = [-1, *first[:100], *first[150:], -2, -3]
    assert edit_distance(first, second) == edit_distance(second, first) == 53
    assert edit_distance(first, first) == 0


def test_the_error_rate_is_that_of_the_best_variant_over_all():
    hypotheses = ["T AH M EY T OW", "R EH D"]
    references = [("T AH M AA T OW", "T AH M EY T OW"), ("R IY D", "W R EH D Z")]
    rate = error_rate(hypotheses, references, words=True)
    assert (rate.total, rate.weight) == (1, 9)
    rate = error_rate(["abc"], [["abd"]])
    assert (rate.total, rate.weight) == (1, 3)


@given(st.lists(st.tuples(WORD, st.lists(WORD, min_size=1, max_size=3)), min_size=1, max_size=4))
def test_more_variants_never_raise_the_rate_of_one_hypothesis(examples):
    for hypothesis, variants in examples:
        one = error_rate([hypothesis], [variants[:1]])
        more = error_rate([hypothesis], [variants])
        if one.weight > 0 and more.weight > 0:
            assert more.value <= one.value + 1e-6


def test_exact_match_counts_any_variant():
    match = exact_match(["a", "b", "c"], [("x", "a"), ("b",), ("d",)])
    assert match.value == pytest.approx(2 / 3)


def test_bleu_and_chrf_agree_with_hand_computed_cases():
    sentences = ["the cat sat on the mat today", "a second sentence stands here too"]
    assert bleu(sentences, sentences) == pytest.approx(100)
    assert chrf(sentences, sentences) == pytest.approx(100)
    # Of 7 words the last is wrong: precisions 6/7, 5/6, 4/5, 3/4, whose product is 3/7.
    wrong = ["the cat sat on the mat yesterday"]
    assert bleu(wrong, sentences[:1]) == pytest.approx(100 * (3 / 7) ** 0.25, abs=1e-3)
    assert chrf(["zzzz"], ["aaaa"]) < 1 < chrf(wrong, sentences[:1]) < 100


@pytest.mark.parametrize("metric", [error_rate, exact_match, bleu, chrf])
@pytest.mark.parametrize("given_", [([], []), (["a"], ["a", "b"])])
def test_counts_that_differ_are_refused(metric, given_):
    with pytest.raises(UsageError, match="cannot be scored"):
        metric(*given_)
