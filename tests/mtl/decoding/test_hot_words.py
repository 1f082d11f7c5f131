"""The automaton of hot words against a search that looks everywhere; what is lent, by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl.decoding.hot_words import HotWordError, HotWords

words = st.text("ab", min_size=1, max_size=3)
sentences = st.lists(words, min_size=1, max_size=6).map(" ".join)


def walk(hot, text):
    """Paid for good, and held, after each character of a text."""
    state, paid, seen = hot.start, 0.0, []
    for character in text:
        state, gained = hot.step(state, character)
        paid += gained
        seen.append((paid, hot.pending[state]))
    return seen, paid + hot.finish(state)


@settings(deadline=None)
@given(phrases=st.lists(sentences, max_size=5), text=sentences, weight=st.sampled_from([0.5, 1.0, 3.0]))
def test_a_finished_text_has_gained_for_each_phrase_in_it_and_nothing_else(phrases, text, weight):
    _, total = walk(HotWords(phrases, weight), text)
    padded = f" {text} "
    naive = 0.0
    for phrase in set(phrases):
        places = sum(padded.startswith(f" {phrase} ", start) for start in range(len(padded)))
        naive += weight * len(phrase) * places
    assert total == pytest.approx(naive)


def test_what_was_lent_is_taken_back_where_the_phrase_breaks_off():
    hot = HotWords(["abc d"], weight=2.0)
    seen, total = walk(hot, "abc x")
    assert [held for _, held in seen] == [2, 4, 6, 8, 0]  # a, ab, abc, "abc ", and then no d
    assert total == 0
    seen, total = walk(hot, "abc d")
    assert [held for _, held in seen] == [2, 4, 6, 8, 10]
    assert total == 10  # five characters, the inner space among them


def test_a_longer_phrase_is_lent_what_the_shorter_one_was_not_paid():
    seen, total = walk(HotWords(["ab", "ab c"], weight=1.0), "ab c")
    assert seen == [(0, 1), (0, 2), (2, 1), (2, 2)]
    assert total == 2 + 4


def test_only_whole_words_count():
    hot = HotWords(["ab"], weight=1.0)
    assert walk(hot, "abb")[1] == walk(hot, "aab")[1] == 0
    assert walk(hot, "ab ab")[1] == 4


def test_phrases_are_normalised_and_must_be_heard():
    hot = HotWords(["Ana's  Mix!", "ana\u2019s mix"])
    assert hot.phrases == ("ana's mix",)
    assert hot.words == {"ana's", "mix"}
    with pytest.raises(HotWordError, match=r"'\?!' has no letter"):
        HotWords(["?!"])
