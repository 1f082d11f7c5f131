"""A row's split follows from its speaker or sentence and from nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.recipe import Corpus, Fractions
from pipelines.utterances.schema import SPLITS
from pipelines.utterances.splits import SplitError, assign_split, overrides, position, split_at

NAMES = st.text(min_size=1, max_size=8)
SHARES = st.tuples(st.integers(0, 10), st.integers(0, 10), st.integers(0, 10)).filter(any)


def corpus(**settings: Any) -> Corpus:
    return Corpus(name="c", kind="manifest", source="x", **settings)


def fractions(shares: tuple[int, int, int]) -> Fractions:
    train, valid, test = (share / sum(shares) for share in shares)
    return Fractions(train=train, valid=valid, test=test)


@given(NAMES, st.lists(st.tuples(NAMES, NAMES), max_size=5), SHARES)
def test_a_speaker_is_in_one_split_whatever_is_said(
    speaker: str, said: list[tuple[str, str]], shares: tuple[int, int, int]
) -> None:
    by_speaker = corpus(split_by="speaker", fractions=fractions(shares))
    expected = assign_split(by_speaker, None, speaker, None, None)
    assert {assign_split(by_speaker, "test", speaker, text, digest) for text, digest in said} <= {expected}
    assert assign_split(corpus(fractions=fractions(shares)), None, speaker, "x", "y") == expected
    by_sentence = corpus(split_by="sentence", fractions=fractions(shares))
    assert {assign_split(by_sentence, None, voice, "a sentence", digest) for voice, digest in said} <= {
        assign_split(by_sentence, "train", None, "a sentence", None)
    }


@given(st.floats(0, 1, exclude_max=True), SHARES)
def test_no_row_falls_into_a_split_that_has_no_share(place: float, shares: tuple[int, int, int]) -> None:
    assert shares[SPLITS.index(split_at(place, fractions(shares)))] > 0


@given(st.floats(0, 0.999), st.floats(0, 0.999))
def test_more_training_data_takes_from_the_others_only(place: float, train: float) -> None:
    """A larger training share never moves a training row elsewhere."""
    less = Fractions(train=train, valid=1 - train, test=0)
    more = Fractions(train=(train + 1) / 2, valid=1 - (train + 1) / 2, test=0)
    if split_at(place, less) == "train":
        assert split_at(place, more) == "train"


def test_positions_are_pinned() -> None:
    """A change here would move everybody's test rows: worked with `printf speaker:ann | sha256sum | cut -c1-12`."""
    assert position("speaker", "ann") == int("88198f18a8b0", 16) / 2**48
    assert position("sentence", "ann") != position("speaker", "ann")


def test_shares_come_out_as_asked_over_many_speakers() -> None:
    given_to = [assign_split(corpus(split_by="speaker"), None, f"s{number}", None, None) for number in range(5000)]
    shares = {split: given_to.count(split) / 5000 for split in SPLITS}
    # Three standard deviations of a binomial share over 5,000 speakers are 0.017 and 0.013.
    assert shares["train"] == pytest.approx(0.8, abs=0.017)
    assert shares["valid"] == pytest.approx(0.1, abs=0.013)
    assert shares["test"] == pytest.approx(0.1, abs=0.013)


def test_release_override_sentence_and_digest_in_their_order() -> None:
    named = corpus(options={"splits": {1089: "test", "ann": "valid"}})
    assert assign_split(named, "train", "1089", "x", None) == "test"
    assert assign_split(named, "train", "ann", "x", None) == "valid"
    assert assign_split(named, "train", "bob", "x", None) == "train"
    by_speaker = corpus(split_by="speaker", fractions=Fractions(train=0.5, valid=0.25, test=0.25))
    for kind, row in (("sentence", (None, "hello", "d")), ("recording", (None, None, "d"))):
        name = "hello" if kind == "sentence" else "d"
        assert assign_split(by_speaker, None, *row) == split_at(position(kind, name), by_speaker.fractions)


@pytest.mark.parametrize("wrong", [["ann"], {"ann": "training"}, {"ann": None}])
def test_mistyped_overrides_are_told(wrong: Any) -> None:
    with pytest.raises(SplitError, match=r"corpora\.c\.options\.splits"):
        overrides(corpus(options={"splits": wrong}))
