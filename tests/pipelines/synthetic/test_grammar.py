"""The command grammar: its notation, and that its English sentences are fit to train and to test on."""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl.text.normalization import normalise
from pipelines.synthetic.commands import ENGLISH as GRAMMAR
from pipelines.synthetic.grammar import Grammar, GrammarError, Intent, weighted
from tests.support.grammars import domains_of, slots_of, words_of

SMALL = Grammar(
    rules={"room": "(living|dining) room|kitchen", "place": "in the {room}", "size": "small|large"},
    intents={
        "light_on": Intent("light", ("turn on the <size> light [<place>]",)),
        "where": Intent("house", ("is it {size:room}?",), weight=0.5),
    },
)

ROOM_WORDS = {"living", "dining", "room", "kitchen"}


def draws(grammar: Grammar, count: int, seed: str = "0") -> list:
    rng = Random(seed)
    return [grammar.draw(rng) for _ in range(count)]


def test_small_grammar_says_all_it_can_and_nothing_else() -> None:
    said = {sentence.text for sentence in draws(SMALL, 2000)}
    rooms = ["living room", "dining room", "kitchen"]
    lights = [f"turn on the {size} light" for size in ("small", "large")]
    expected = {*lights, *(f"{light} in the {room}" for light in lights for room in rooms)}
    assert said == expected | {f"is it {room}" for room in rooms}


def test_slots_are_tagged_by_the_name_before_the_colon() -> None:
    by_text = {sentence.text: sentence for sentence in draws(SMALL, 500)}
    sentence = by_text["turn on the small light in the dining room"]
    assert sentence.tokens == ("turn", "on", "the", "small", "light", "in", "the", "dining", "room")
    assert sentence.slots == ("O", "O", "O", "O", "O", "O", "O", "B-room", "I-room")
    assert (sentence.intent, sentence.domain, sentence.question) == ("light_on", "light", False)
    asked = by_text["is it living room"]
    assert asked.slots == ("O", "O", "B-size", "I-size")
    assert asked.question


def test_a_choice_is_drawn_by_the_root_of_its_words_and_an_option_half_the_time() -> None:
    # "(living|dining) room" can say three words and "kitchen" one: root 3 to 1, so 63.4 % of the rooms.
    sentences = draws(SMALL, 20000)
    lights = [sentence for sentence in sentences if sentence.intent == "light_on"]
    assert len(lights) / len(sentences) == pytest.approx(1 / 1.5, abs=0.01)
    placed = [sentence for sentence in lights if "in" in sentence.tokens]
    assert len(placed) / len(lights) == pytest.approx(0.5, abs=0.015)
    rooms = sum("room" in sentence.tokens for sentence in placed)
    assert rooms / len(placed) == pytest.approx(3**0.5 / (3**0.5 + 1), abs=0.02)


def test_words_and_slots_are_known_without_drawing() -> None:
    assert slots_of(SMALL) == {"room", "size"}
    assert words_of(SMALL) == {*ROOM_WORDS, "turn", "on", "the", "small", "large", "light", "in", "is", "it"}
    assert domains_of(SMALL) == {"house", "light"}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("play (a|b", r"'\(' without its '\)'"),
        ("play a] b", "'\\]' without its opening bracket"),
        ("play {musik}", "names the rule 'musik', which does not exist; did you mean 'music'"),
        ("at 7", "cannot read '7'"),
        ("why? not", "for the end"),
    ],
)
def test_a_faulty_form_is_named(line: str, complaint: str) -> None:
    grammar = Grammar({"music": "jazz"}, {"play": Intent("music", (line,))})
    with pytest.raises(GrammarError, match=complaint) as caught:
        grammar.draw(Random(0))
    assert "intent 'play'" in str(caught.value)


def test_a_rule_that_never_ends_is_refused() -> None:
    grammar = Grammar({"a": "x <b>", "b": "y <a>"}, {"say": Intent("talk", ("<a>",))})
    with pytest.raises(GrammarError, match="leads back into itself"):
        grammar.draw(Random(0))


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=5), st.integers())
def test_weighted_gives_one_of_the_items(weights: list[float], seed: int) -> None:
    assert weighted(Random(seed), list(range(len(weights))), weights) in range(len(weights))


def test_fingerprint_follows_every_part() -> None:
    other_rule = Grammar({**SMALL.rules, "size": "small|huge"}, SMALL.intents)
    other_weight = Grammar(SMALL.rules, {**SMALL.intents, "where": Intent("house", ("is it {size:room}?",), 0.6)})
    assert len({SMALL.fingerprint(), other_rule.fingerprint(), other_weight.fingerprint()}) == 3
    assert SMALL.fingerprint() == Grammar(dict(SMALL.rules), dict(SMALL.intents)).fingerprint()


@pytest.fixture(scope="module")
def commands() -> list:
    return draws(GRAMMAR, 20000)


def test_commands_have_the_promised_size() -> None:
    assert 350 <= len(words_of(GRAMMAR)) <= 500
    assert len(domains_of(GRAMMAR)) == 8
    assert 20 <= len(GRAMMAR.intents) <= 28
    assert 12 <= len(slots_of(GRAMMAR)) <= 16


def test_commands_are_normalised_text_with_valid_bio(commands: list) -> None:
    for sentence in commands[:5000]:
        assert normalise(sentence.text) == sentence.text
        assert len(sentence.tokens) == len(sentence.slots) <= 24
        for before, tag in zip(("O", *sentence.slots), sentence.slots, strict=False):
            assert tag == "O" or tag[0] == "B" or before[2:] == tag[2:], sentence


def test_no_command_means_two_things(commands: list) -> None:
    meanings = defaultdict(set)
    for sentence in commands:
        meanings[sentence.text].add((sentence.intent, sentence.slots))
    assert [text for text, found in meanings.items() if len(found) > 1] == []


def test_each_intent_can_be_asked_in_many_ways(commands: list) -> None:
    ways = Counter(intent for intent, _ in {(sentence.intent, sentence.text) for sentence in commands})
    assert set(ways) == set(GRAMMAR.intents)
    assert min(ways.values()) >= 150


def test_every_word_and_slot_is_really_said(commands: list) -> None:
    assert {word for sentence in commands for word in sentence.tokens} == words_of(GRAMMAR)
    assert {tag[2:] for sentence in commands for tag in sentence.slots if tag != "O"} == slots_of(GRAMMAR)


def test_the_same_seed_says_the_same() -> None:
    assert draws(SMALL, 50, "a") == draws(SMALL, 50, "a") != draws(SMALL, 50, "b")
