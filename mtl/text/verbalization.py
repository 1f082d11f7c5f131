"""Verbalisation of written text: numbers, money, times and abbreviations as words.

    spoken("Dr. Lee paid $3.50 at 8:05.", "en")       # "doctor Lee paid three dollars fifty at eight oh five."

Text normalisation for synthesis (Sproat et al. 2001) by rules: complete for English and German, only numbers for other
languages of num2words. Case and punctuation stay, because the phonemiser finds phrases by them; so does text that no
rule matches.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from num2words import CONVERTER_CLASSES, num2words

_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u2026": "..."})
_DASH = re.compile(r"\s*[\u2013\u2014]\s*|\s+-+\s+")
LONGEST = 12  # digits; longer numbers are read digit by digit
Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


@dataclass(frozen=True)
class Language:
    """Words of the rules in one language.

    units: symbol behind a number -> (singular, plural). money: symbol before or behind a number -> (singular, plural).
    point, thousands: separators in numbers. decimal, to: the words for the point, and for a dash between two numbers.
    """

    code: str
    abbreviations: Mapping[str, str]
    units: Mapping[str, tuple[str, str]]
    money: Mapping[str, tuple[str, str]]
    magnitudes: tuple[str, ...]
    point: str = "."
    thousands: str = ","
    decimal: str = "point"
    to: str = "to"
    signs: Mapping[str, str] = field(default_factory=dict)


ENGLISH = Language(
    code="en",
    abbreviations={
        "mr": "mister", "mrs": "missis", "ms": "miz", "dr": "doctor", "prof": "professor", "st": "saint",
        "jr": "junior", "sr": "senior", "gen": "general", "col": "colonel", "capt": "captain", "lt": "lieutenant",
        "rev": "reverend", "hon": "honorable", "vs": "versus", "etc": "et cetera", "e.g": "for example",
        "i.e": "that is", "approx": "approximately", "dept": "department", "ave": "avenue",
    },
    units={
        "%": ("percent", "percent"), "°c": ("degree Celsius", "degrees Celsius"),
        "°f": ("degree Fahrenheit", "degrees Fahrenheit"), "°": ("degree", "degrees"),
        "km": ("kilometer", "kilometers"), "cm": ("centimeter", "centimeters"), "mm": ("millimeter", "millimeters"),
        "kg": ("kilogram", "kilograms"), "mph": ("mile per hour", "miles per hour"), "ft": ("foot", "feet"),
        "lb": ("pound", "pounds"), "lbs": ("pound", "pounds"), "oz": ("ounce", "ounces"),
        "kb": ("kilobyte", "kilobytes"), "mb": ("megabyte", "megabytes"), "gb": ("gigabyte", "gigabytes"),
        "ms": ("millisecond", "milliseconds"), "hz": ("hertz", "hertz"), "khz": ("kilohertz", "kilohertz"),
    },
    money={
        "$": ("dollar", "dollars"), "£": ("pound", "pounds"), "€": ("euro", "euros"), "¥": ("yen", "yen"),
    },
    magnitudes=("hundred", "thousand", "million", "billion", "trillion"),
    signs={"&": "and", "+": "plus", "=": "equals", "@": "at"},
)  # fmt: skip

GERMAN = Language(
    code="de",
    abbreviations={
        "dr": "Doktor", "prof": "Professor", "hr": "Herr", "fr": "Frau", "str": "Straße", "nr": "Nummer",
        "z.b": "zum Beispiel", "d.h": "das heißt", "usw": "und so weiter", "bzw": "beziehungsweise", "ca": "zirka",
        "u.a": "unter anderem", "st": "Sankt", "evtl": "eventuell", "inkl": "inklusive", "tel": "Telefon",
    },
    units={
        "%": ("Prozent", "Prozent"), "°c": ("Grad Celsius", "Grad Celsius"), "°": ("Grad", "Grad"),
        "km": ("Kilometer", "Kilometer"), "cm": ("Zentimeter", "Zentimeter"), "mm": ("Millimeter", "Millimeter"),
        "kg": ("Kilogramm", "Kilogramm"), "km/h": ("Stundenkilometer", "Stundenkilometer"), "m": ("Meter", "Meter"),
        "g": ("Gramm", "Gramm"), "hz": ("Hertz", "Hertz"),
    },
    money={"€": ("Euro", "Euro"), "$": ("Dollar", "Dollar"), "£": ("Pfund", "Pfund"), "¥": ("Yen", "Yen")},
    magnitudes=("hundert", "tausend", "Millionen", "Milliarden"),
    point=",",
    thousands=".",
    decimal="Komma",
    to="bis",
    signs={"&": "und", "+": "plus", "=": "gleich", "@": "ät"},
)  # fmt: skip

_MONTHS = "Januar|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember"


def spoken(text: str, language: str = "en") -> str:
    """The verbalised text; language: a BCP 47 tag, of which only the first part is used ("en-us" is English)."""
    text = unicodedata.normalize("NFC", text).translate(_QUOTES)
    text = _DASH.sub(", ", text)
    code = language.lower().partition("-")[0]
    rules = _RULES.get(code) or _plain(code)
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


def cardinal(digits: str, code: str) -> str:
    """A whole number in words, digit by digit if it begins with 0 or is longer than LONGEST."""
    if (digits.startswith("0") and len(digits) > 1) or len(digits) > LONGEST:
        return " ".join(_words(int(digit), code) for digit in digits)
    return _words(int(digits), code)


def ordinal(number: int, code: str) -> str:
    return str(num2words(number, lang=code, to="ordinal")).replace("-", " " if code == "en" else "-")


def year(number: int, code: str) -> str:
    """A year in words: nineteen eighty four, twenty ten, two thousand and five."""
    return str(num2words(number, lang=code, to="year")).replace("-", " ")


def _words(number: int, code: str) -> str:
    return str(num2words(number, lang=code)).replace(",", "").replace("-", " ")


def _number(written: str, language: Language) -> str:
    """A number with separators and decimals, in words."""
    whole, _, decimals = written.replace(language.thousands, "").partition(language.point)
    words = cardinal(whole, language.code)
    if not decimals:
        return words
    return f"{words} {language.decimal} {' '.join(_words(int(digit), language.code) for digit in decimals)}"


def _counted(written: str, language: Language) -> str:
    """A number before a noun: "ein Euro" in German, not "eins"."""
    return "ein" if language.code == "de" and written == "1" else _number(written, language)


def _shared(language: Language) -> tuple[str, list[Rule]]:
    """Pattern of a number, and the rules that all languages have."""
    thousands, point = re.escape(language.thousands), re.escape(language.point)
    number = rf"\d{{1,3}}(?:{thousands}\d{{3}})+(?:{point}\d+)?|\d+(?:{point}\d+)?"
    signs = "|".join(map(re.escape, language.money))
    magnitudes = "|".join(language.magnitudes)
    units = "|".join(re.escape(unit) for unit in sorted(language.units, key=len, reverse=True))
    short = "|".join(re.escape(name) for name in sorted(language.abbreviations, key=len, reverse=True))

    def money(sign: str, amount: str, magnitude: str | None) -> str:
        one, several = language.money[sign]
        if magnitude:
            return f"{_number(amount, language)} {magnitude} {several}"
        whole, _, rest = amount.partition(language.point)
        if len(rest) != 2:
            return f"{_counted(amount, language)} {one if amount == '1' else several}"
        words = f"{_counted(whole, language)} {one if whole == '1' else several}"
        return words if rest == "00" else f"{words} {_words(int(rest), language.code)}"

    def unit(match: re.Match[str]) -> str:
        one, several = language.units[match[2].lower()]
        return f"{_counted(match[1], language)} {one if match[1] == '1' else several}"

    def span(match: re.Match[str]) -> str:
        first, last = match.groups()
        # Neither 555-1234 nor 2-1 is a range.
        spans = int(first) < int(last) and (len(last) < 4 or len(last) == len(first)) and first[0] != "0"
        return f"{first} {language.to} {last}" if spans else f"{first} {last}"

    rules: list[Rule] = [
        (re.compile(r"(?<![\w.,])[-\u2212](?=\d)"), lambda m: "minus "),
        (re.compile(r"(?<![\w.,-])(\d+)-(\d+)(?![\w-]|[.,]\d)"), span),
        (re.compile(rf"(?<!\w)({short})\.(?!\w)", re.I), lambda m: language.abbreviations[m[1].lower()]),
        (re.compile(rf"({signs})\s?({number})(?:\s({magnitudes})\b)?"), lambda m: money(m[1], m[2], m[3])),
        (re.compile(rf"(?<![\w.,])({number})(?:\s({magnitudes}))?\s?({signs})"), lambda m: money(m[3], m[1], m[2])),
        (re.compile(rf"(?<![\w.,])({number})\s?({units})(?![\w/])", re.I), unit),
    ]
    return number, rules


def _last(number: str, language: Language) -> list[Rule]:
    """Rules for the remaining numbers and signs, applied last."""
    return [
        (re.compile(rf"(?<!\d)(?:{number})"), lambda m: f" {_number(m[0], language)} "),
        (re.compile("|".join(map(re.escape, language.signs))), lambda m: f" {language.signs[m[0]]} "),
        (re.compile(r"\s+(?=[.,;:?!)])"), lambda m: ""),
    ]


def _english() -> list[Rule]:
    number, shared = _shared(ENGLISH)

    def clock(match: re.Match[str]) -> str:
        hour, minute, half = int(match[1]), int(match[2]), match[3]
        words = _words(hour, "en")
        if minute:
            words += f" {'oh ' if minute < 10 else ''}{_words(minute, 'en')}"
        elif not half:
            words += " o'clock" if 0 < hour <= 12 else " hundred"
        return f"{words} {half[0].upper()} M" if half else words

    def decade(match: re.Match[str]) -> str:
        words = year(int(match[1]), "en")
        return f"{words[:-1]}ies" if words.endswith("y") else f"{words}s"

    return [
        (re.compile(r"\b([01]?\d|2[0-4]):([0-5]\d)(?:\s?([ap])\.?m\b(?:\.(?!\s*$))?)?", re.I), clock),
        (
            re.compile(r"\b(\d{1,2})\s?([ap])\.?m\b(?:\.(?!\s*$))?", re.I),
            lambda m: f"{_words(int(m[1]), 'en')} {m[2].upper()} M",
        ),
        (re.compile(r"(?:#|\bno\.\s?)(?=\d)", re.I), lambda m: "number "),
        *shared,
        (re.compile(r"\b(\d+)(?:st|nd|rd|th)\b", re.I), lambda m: ordinal(int(m[1]), "en")),
        (re.compile(r"\b(1[1-9]\d\d|20\d\d)s\b"), decade),
        (re.compile(r"(?<![\w.,])(1[1-9]\d\d|20\d\d)(?![\w%]|[.,]\d)"), lambda m: year(int(m[1]), "en")),
        *_last(number, ENGLISH),
    ]


def _german() -> list[Rule]:
    number, shared = _shared(GERMAN)

    def clock(match: re.Match[str]) -> str:
        hour, minute = int(match[1]), int(match[2])
        words = "ein" if hour == 1 else _words(hour, "de")
        return f"{words} Uhr" + (f" {_words(minute, 'de')}" if minute else "")

    def date(match: re.Match[str]) -> str:
        return f"{ordinal(int(match[1]), 'de')}n {match[2]}"  # am dritten Mai: the form after a preposition

    return [
        (re.compile(r"\b([01]?\d|2[0-4])[:.]([0-5]\d)\s?Uhr\b"), clock),
        (re.compile(r"\b([01]?\d|2[0-4]):([0-5]\d)\b"), clock),
        (re.compile(r"\b1\sUhr\b"), lambda m: "ein Uhr"),
        (re.compile(rf"\b(\d{{1,2}})\.\s(?=(?:{_MONTHS})\b)(\w+)"), date),
        *shared,
        (re.compile(r"(?<![\w.,])(1[1-9]\d\d)(?![\w%]|[.,]\d)"), lambda m: year(int(m[1]), "de")),
        *_last(number, GERMAN),
    ]


def _plain(code: str) -> list[Rule]:
    """Rules for whole numbers only, for the languages of num2words."""
    if code not in CONVERTER_CLASSES:
        return []
    return [(re.compile(r"(?<![\w.,])\d+(?![\w]|[.,]\d)"), lambda m: cardinal(m[0], code))]


_RULES = {"en": _english(), "de": _german()}
