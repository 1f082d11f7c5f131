"""Phonemes of a text, or characters for a language without a phonemiser.

    phones = Phonemiser("gmw/en-us")("Dr. Lee paid $3.50.")       # ["_", "d", "'0", "k", "t", "3", …, "_"]

The text is verbalised first (mtl.text.verbalization). Silence is a symbol (mtl.tts.espeak.PAUSE) at both ends and
between phrases, so that the durations of the symbols add up to the whole utterance.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from mtl.text.verbalization import spoken
from mtl.tts import espeak
from mtl.tts.espeak import PAUSE

CHARACTERS = "characters"
_BREAKS = frozenset('.,;:?!()[]"\u2013\u2014')


class UnspeakableText(ValueError):
    """A text without anything to pronounce, or a phonemiser that is not installed."""


@dataclass(frozen=True)
class Phonemiser:
    """kind: file name of an eSpeak voice ("gmw/en-us"), or "characters", for any language."""

    kind: str

    @property
    def language(self) -> str:
        """Language of the verbalisation: "en-us" for "gmw/en-us", "" for characters."""
        return "" if self.kind == CHARACTERS else self.kind.rpartition("/")[2]

    def __call__(self, text: str, language: str | None = None) -> list[str]:
        """Symbols of the text, PAUSE at both ends.

        language: of the verbalisation, by default the phonemiser's.

        Raises:
            UnspeakableText: a text without a letter, no such voice, or eSpeak NG is not installed.
        """
        verbalised = spoken(text, language or self.language)
        if self.kind == CHARACTERS:
            return _characters(verbalised)
        try:
            return espeak.phonemes(verbalised, self.kind)
        except espeak.EspeakError as error:
            raise UnspeakableText(str(error)) from None


def _characters(text: str) -> list[str]:
    """Lower-case letters, a space between words, PAUSE in place of punctuation and at both ends."""
    symbols = [PAUSE]
    for character in unicodedata.normalize("NFC", text.lower()):
        symbol = PAUSE if character in _BREAKS else character if character.isalnum() or character == "'" else " "
        if symbol == " " and symbols[-1] in (" ", PAUSE):
            continue
        if symbol == PAUSE and symbols[-1] == " ":
            symbols.pop()
        if symbol != PAUSE or symbols[-1] != PAUSE:
            symbols.append(symbol)
    if symbols[-1] == " ":
        symbols.pop()
    if not any(map(str.isalnum, "".join(symbols))):
        raise UnspeakableText(f"{text!r} holds nothing that could be said")
    return symbols if symbols[-1] == PAUSE else [*symbols, PAUSE]
