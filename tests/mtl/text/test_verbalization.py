"""Text as it is read aloud: each rule by examples worked by hand, and what no rule may touch."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies

from mtl.text.verbalization import cardinal, spoken


@pytest.mark.parametrize(
    ("written", "said"),
    [
        # money
        ("It costs $3.50.", "It costs three dollars fifty."),
        ("£1 or $1.00", "one pound or one dollar"),
        ("$1.5 million, €1,250", "one point five million dollars, one thousand two hundred and fifty euros"),
        # times
        ("at 8:05", "at eight oh five"),
        ("10:00 and 13:00", "ten o'clock and thirteen hundred"),
        ("7:30 pm, the 22nd", "seven thirty P M, the twenty second"),
        ("Come at 5 p.m.", "Come at five P M."),
        ("At 5 p.m. we go.", "At five P M we go."),
        # years, decades, ordinals
        ("In 1984, not 2005.", "In nineteen eighty four, not two thousand and five."),
        ("the 1920s and 1900s", "the nineteen twenties and nineteen hundreds"),
        ("1950 people", "nineteen fifty people"),  # nobody can tell from the number alone
        ("the 3rd-rate 101st", "the third-rate one hundred and first"),
        # numbers
        ("1,250 people (50%) came", "one thousand two hundred and fifty people (fifty percent) came"),
        ("3.14 and -3 °C", "three point one four and minus three degrees Celsius"),
        ("1 kg, 2 kg", "one kilogram, two kilograms"),
        ("10-20 km", "ten to twenty kilometers"),
        ("call 0301, 555-1234", "call zero three zero one, five hundred and fifty five twelve thirty four"),
        ("12345678901234", "one two three four five six seven eight nine zero one two three four"),
        # abbreviations and signs
        ("Dr. Lee, Mrs. Smith, St. Louis", "doctor Lee, missis Smith, saint Louis"),
        ("e.g. No. 5 & #6", "for example number five and number six"),
        # what stays
        ("Mr Fox said no. He left.", "Mr Fox said no. He left."),
        ("“Quoted” — it’s so…", "\"Quoted\", it's so..."),
        ("well-known, isn't it?", "well-known, isn't it?"),
    ],
)  # fmt: skip
def test_english(written: str, said: str) -> None:
    assert spoken(written, "en-us") == said


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Am 3. Mai um 8.30 Uhr", "Am dritten Mai um acht Uhr dreißig"),
        ("um 13:05, 1 Uhr", "um dreizehn Uhr fünf, ein Uhr"),
        ("Es kostet 5,50 € oder 1 €.", "Es kostet fünf Euro fünfzig oder ein Euro."),
        ("z.B. 1.250 Leute (50 %)", "zum Beispiel eintausendzweihundertfünfzig Leute (fünfzig Prozent)"),
        ("1989 waren es 3,5", "neunzehnhundertneunundachtzig waren es drei Komma fünf"),
        ("20-30 km/h", "zwanzig bis dreißig Stundenkilometer"),
        ("Dr. Meier", "Doktor Meier"),
    ],
)
def test_german(written: str, said: str) -> None:
    assert spoken(written, "de") == said


def test_other_languages_have_their_numbers_or_stay_as_they_are() -> None:
    assert spoken("J'ai 25 ans", "fr") == "J'ai vingt cinq ans"
    assert spoken("25 §", "xx") == "25 §"


def test_a_number_that_no_one_would_say_is_read_digit_by_digit() -> None:
    assert cardinal("007", "en") == "zero zero seven"
    assert cardinal("0", "en") == "zero"
    assert cardinal("999999999999", "en").startswith("nine hundred and ninety nine billion")


@given(strategies.text(max_size=60), strategies.sampled_from(["en", "de", "fr"]))
def test_nothing_breaks_it_and_no_ascii_digit_is_left(text: str, language: str) -> None:
    said = spoken(text, language)
    assert spoken(said, language) is not None
    if language != "fr":
        assert not set(said) & set("0123456789")


@given(strategies.integers(0, 10**12))
def test_every_number_becomes_words(number: int) -> None:
    assert spoken(f"{number}").replace(" ", "").isalpha()
