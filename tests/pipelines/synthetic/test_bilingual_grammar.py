"""Two grammars from one draw: small lines worked by hand, and that the German commands say what the English ones do."""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random

import pytest

from mtl.text.normalization import normalise
from pipelines.synthetic import commands as grammars
from pipelines.synthetic.bilingual_grammar import Parallel
from pipelines.synthetic.grammar import Grammar, GrammarError, Intent
from tests.support.grammars import slots_of, words_of

ENGLISH = Grammar(
    {"room": "kitchen|hall", "size": "(very|rather) big|small"},
    {"light": Intent("home", ("(turn|switch) the <size> light [in the {room}] (on|off)?",))},
)


def german(line: str, **rules: str) -> Parallel:
    lines = {"room": "küche|flur", "in_the": "in der|im", "size": "(sehr|ziemlich) große|kleine", **rules}
    return Parallel(ENGLISH, Grammar(lines, {"light": Intent("home", (line,))}), {"in_the": "room"})


def pairs(parallel: Parallel, count: int = 300) -> dict[str, tuple[str, tuple[str, ...]]]:
    rng = Random("pairs")
    drawn = [parallel.draw(rng) for _ in range(count)]
    return {english.text: (other.text, other.slots) for english, other in drawn}


def test_numbers_follow_brackets_out_of_order_and_rules_agree_with_each_other() -> None:
    found = pairs(german("das <size> licht 2[<in_the> {room}] 3(1(an|ein)machen|1(aus|ab)machen)"))
    assert len(found) == 2 * 3 * 3 * 2  # verbs, sizes, rooms or none, on or off
    text, slots = found["switch the very big light in the hall off"]
    assert text == "das sehr große licht im flur ab machen"
    assert slots == ("O", "O", "O", "O", "O", "B-room", "O", "O")
    assert found["turn the small light on"][0] == "das kleine licht an machen"
    assert found["switch the rather big light in the kitchen on"][0] == (
        "das ziemlich große licht in der küche ein machen"
    )


def test_brackets_without_numbers_follow_in_order() -> None:
    found = pairs(german("(schalte|mach) das <size> licht [<in_the> {room}] (an|aus)"))
    assert found["switch the small light in the kitchen off"][0] == "mach das kleine licht in der küche aus"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("1(a|b|c) licht", r"intent 'light', form 1: bracket 1\(\|\|\) follows 2 alternatives"),
        ("4(a|b) licht", r"bracket 4\(\|\) follows no bracket"),
        ("das {dish} licht", r"\{dish:dish\} follows the rule 'dish', which the other line does not name"),
        ("das licht <in_the>", r"<in_the> follows the rule 'room'"),  # the room is inside the bracket, not always there
    ],
)
def test_a_line_that_does_not_follow_is_named(line: str, complaint: str) -> None:
    with pytest.raises(GrammarError, match=complaint):
        pairs(german(line, dish="suppe"))


def test_other_intents_are_named() -> None:
    other = Grammar({}, {"light": Intent("home", ("a", "b")), "music": Intent("home", ("c",))})
    with pytest.raises(GrammarError, match="light, music"):
        Parallel(ENGLISH, other, {}).draw(Random(0))


@pytest.fixture(scope="module")
def commands() -> list:
    rng = Random("0")
    return [grammars.ENGLISH_TO_GERMAN.draw(rng) for _ in range(6000)]


def test_english_is_drawn_as_it_was(commands: list) -> None:
    rng = Random("0")
    assert [english for english, _ in commands[:1000]] == [grammars.ENGLISH.draw(rng) for _ in range(1000)]


def test_both_sides_are_labelled_alike(commands: list) -> None:
    for english, german in commands:
        assert (english.intent, english.domain) == (german.intent, german.domain)
        begun = [Counter(tag for tag in side.slots if tag[0] == "B") for side in (english, german)]
        assert begun[0] == begun[1], (english, german)
        assert normalise(german.text) == german.text


def test_one_english_sentence_has_one_german_one_and_no_german_one_means_two_things(commands: list) -> None:
    translations, meanings = defaultdict(set), defaultdict(set)
    for english, german in commands:
        translations[english.text].add(german.text)
        meanings[german.text].add((german.intent, german.slots))
    assert [text for text, found in translations.items() if len(found) > 1] == []
    assert [text for text, found in meanings.items() if len(found) > 1] == []
    # The German side keeps nearly all that the English one tells: few sentences fall together.
    assert len(meanings) > 0.95 * len(translations)


def test_every_german_word_is_said(commands: list) -> None:
    assert {word for _, german in commands for word in german.tokens} == words_of(grammars.GERMAN)
    assert slots_of(grammars.GERMAN) == slots_of(grammars.ENGLISH)


TRANSLATED_BY_A_PERSON = {
    "please set an alarm next wednesday at nine in the evening": (
        "bitte nächsten mittwoch um neun uhr abends einen wecker stellen"
    ),
    "remind me to call my brother at ten in the afternoon": (
        "mich um zehn uhr nachmittags daran erinnern meinen bruder anzurufen"
    ),
    "remind me to take out the trash wednesday at quarter to one": (
        "mich mittwoch um viertel vor eins daran erinnern den müll rauszubringen"
    ),
    "it is too dark in the kitchen can you turn on the floor lamp": (
        "es ist zu dunkel in der küche kannst du die stehlampe anmachen"
    ),
    "could you play something by the electric strangers": "könntest du etwas von die elektrischen fremden spielen",
    "set the bedroom lamp to ninety five percent": "die lampe im schlafzimmer auf fünfundneunzig prozent stellen",
}


def test_sentences_translated_by_a_person() -> None:
    rng = Random("x")
    drawn = {english.text: german.text for english, german in (grammars.ENGLISH_TO_GERMAN.draw(rng) for _ in range(60))}
    assert {english: drawn.get(english) for english in TRANSLATED_BY_A_PERSON} == TRANSLATED_BY_A_PERSON
