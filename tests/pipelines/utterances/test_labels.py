"""BIO, alignment of tags with normalised words, and what is turned away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl.text.normalization import normalise
from pipelines.sources.source import Recording
from pipelines.utterances.labels import LabelError, align, check_bio, clean
from pipelines.utterances.utterance import Utterance

SLOTS = ("city", "time")
TAGS = st.sampled_from(["O", *(f"{kind}-{slot}" for kind in "BI" for slot in SLOTS)])


def spans(tags: list[str]) -> list[tuple[str, int]]:
    """(slot, number of tags) of each span of valid BIO; another reading of it than the code's."""
    found: list[tuple[str, int]] = []
    for tag in tags:
        if tag.startswith("B-"):
            found.append((tag[2:], 1))
        elif tag.startswith("I-"):
            found[-1] = (found[-1][0], found[-1][1] + 1)
    return found


@st.composite
def valid_tags(draw: st.DrawFn) -> list[str]:
    tags: list[str] = []
    for slot, length in draw(st.lists(st.tuples(st.sampled_from(["", *SLOTS]), st.integers(1, 3)), max_size=6)):
        tags += ["O"] * length if not slot else [f"B-{slot}", *[f"I-{slot}"] * (length - 1)]
    return tags


@given(valid_tags())
def test_every_sequence_of_spans_is_valid(tags: list[str]) -> None:
    check_bio(tags)


@given(st.lists(TAGS, max_size=8))
def test_bio_is_refused_exactly_where_an_inside_tag_continues_nothing(tags: list[str]) -> None:
    pairs = zip(["O", *tags], tags, strict=False)
    wrong = [tag for before, tag in pairs if tag[0] == "I" and before[2:] != tag[2:]]
    if not wrong:
        check_bio(tags)
        return
    with pytest.raises(LabelError) as caught:
        check_bio(tags)
    assert caught.value.reason == "bio_transition"
    assert repr(wrong[0]) in caught.value.detail


@pytest.mark.parametrize("tag", ["", "B", "B-", "I-", "X-city", "b-city", "o", "city", "S-city"])
def test_what_is_no_tag_is_refused(tag: str) -> None:
    with pytest.raises(LabelError, match=f"tag 2 is {tag!r}"):
        check_bio(["O", tag])


def test_a_tag_stays_on_the_words_that_its_token_becomes() -> None:
    tokens, tags = align(
        ["At", "8:38", "a.m.", ",", "St.", "Louis"], ["O", "B-time", "I-time", "O", "B-city", "I-city"]
    )
    assert tokens == ["at", "8", "38", "a", "m", "st", "louis"]
    assert tags == ["O", "B-time", "I-time", "I-time", "I-time", "B-city", "I-city"]


def test_a_span_that_began_on_punctuation_begins_on_its_first_word() -> None:
    assert align(['"', "new", "york", '"'], ["B-city", "I-city", "I-city", "O"]) == (
        ["new", "york"],
        ["B-city", "I-city"],
    )
    assert align(["paris", "!", "rome"], ["B-city", "B-city", "B-city"]) == (["paris", "rome"], ["B-city", "B-city"])
    assert align(["!"], ["B-city"]) == ([], [])


@given(
    valid_tags().flatmap(
        lambda tags: st.tuples(st.lists(st.text(max_size=5), min_size=len(tags), max_size=len(tags)), st.just(tags))
    )
)
def test_alignment_keeps_words_lengths_and_validity(case: tuple[list[str], list[str]]) -> None:
    tokens, tags = case
    words, aligned = align(tokens, tags)
    assert len(words) == len(aligned)
    assert " ".join(words) == " ".join(filter(None, map(normalise, tokens)))
    check_bio(aligned)
    assert len(spans(aligned)) <= len(spans(tags))
    if all(len(normalise(token).split()) == 1 for token in tokens):
        assert aligned == tags


def _utterance(text: str | None = None, recording: Recording | None = None, **labels: object) -> Utterance:
    return Utterance("id", None, recording, text, **labels)  # type: ignore[arg-type]


def test_text_follows_from_tokens_and_tokens_from_text() -> None:
    slots = ["O", "B-city"]
    expected = ("to boston", ["to", "boston"], slots)
    assert clean(_utterance("To Boston!", slots=slots)) == expected
    assert clean(_utterance(tokens=["To", "Boston"], slots=slots)) == expected
    assert clean(_utterance("to boston", tokens=["to", "boston"])) == ("to boston", None, None)
    assert clean(_utterance(None, Recording(uri="x"), labels={"emotion": "anger"})) == (None, None, None)


@pytest.mark.parametrize(
    ("utterance", "reason"),
    [
        (_utterance("to boston", slots=["O"]), "length_mismatch"),
        (_utterance("to boston", tokens=["to", "boston"], slots=["O", "O", "O"]), "length_mismatch"),
        (_utterance("to boston", tokens=["from", "boston"], slots=["O", "O"]), "length_mismatch"),
        (_utterance("to boston", slots=["O", "I-city"]), "bio_transition"),
        (_utterance("…!"), "missing_transcript"),
        (_utterance("", Recording(uri="x")), "missing_transcript"),
        (_utterance(), "missing_transcript"),
    ],
)
def test_labels_that_contradict_each_other_are_refused(utterance: Utterance, reason: str) -> None:
    with pytest.raises(LabelError) as caught:
        clean(utterance)
    assert caught.value.reason == reason
