"""Witten-Bell by hand, distributions that sum to one, ARPA there and back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl.ngram import END, UNKNOWN, NGram

TEXTS = ["a b", "a c", "a b"]
sentences = st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=5).map(" ".join), min_size=1, max_size=8)


def test_by_hand():
    model = NGram.train(TEXTS, order=2)
    # Words a 3, b 2, c 1, </s> 3: nine of four kinds; with <unk> five are known. P(b) = (2 + 4/5) / (9 + 4).
    b = 2.8 / 13
    assert model.score((), "b") == pytest.approx(math.log(b))
    # After a: b twice and c once, three of two kinds. P(b | a) = (2 + 2 P(b)) / (3 + 2).
    assert model.score(("a",), "b") == pytest.approx(math.log((2 + 2 * b) / 5))
    # a never follows a: back-off 2 / (3 + 2) times P(a) = (3 + 4/5) / 13.
    assert model.score(("a",), "a") == pytest.approx(math.log(2 / 5 * 3.8 / 13))
    assert model.score(("a",), "zebra") == pytest.approx(math.log(2 / 5 * 0.8 / 13))
    assert model.vocabulary == {"a", "b", "c"}


@given(texts=sentences, order=st.integers(1, 4), context=st.lists(st.sampled_from("abcdx"), max_size=4))
def test_every_context_s_probabilities_sum_to_one(texts, order, context):
    model = NGram.train(texts, order)
    words = [*model.vocabulary, END, UNKNOWN]
    assert sum(math.exp(model.score((*model.start, *context), word)) for word in words) == pytest.approx(1)


@given(texts=sentences, order=st.integers(1, 4))
def test_arpa_comes_back(texts, order):
    model = NGram.train(texts, order)
    again = NGram.from_arpa(model.to_arpa())
    assert again.order == model.order
    for context in (model.start, ("a",), ("a", "b"), ("d", "x")):
        for word in ("a", "d", END, "zebra"):
            assert again.score(context, word) == pytest.approx(model.score(context, word), abs=1e-4)


def test_what_cannot_be_read_is_named():
    with pytest.raises(ValueError, match="line 5"):
        NGram.from_arpa("\\data\\\nngram 1=1\n\n\\1-grams:\n-0.5 a b c\n\\end\\\n")
    with pytest.raises(ValueError, match="no ARPA"):
        NGram.from_arpa("hello")
    with pytest.raises(ValueError, match="at least one sentence"):
        NGram.train([])
