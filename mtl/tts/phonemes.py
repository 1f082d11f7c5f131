"""What a text is to a synthesiser: phonemes, or characters where there is no phonemiser for its language.

    phones = Phonemiser("gmw/en-us")("Dr. Lee paid $3.50.")       # ["_", "d", "'0", "k", "t", "3", …, "_"]

The text is first written out in words (mtl.text.verbalization). Silence is a symbol too
(mtl.tts.espeak.PAUSE), at both ends and
between phrases, so that the symbols of an utterance and their durations fill it from end to end.
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
    """A text of which nothing can be said, or a phonemiser that is not there."""


@dataclass(frozen=True)
class Phonemiser:
    """kind: eSpeak's name of a voice, by file ("gmw/en-us"), or "characters", of any language."""

    kind: str

    @property
    def language(self) -> str:
        """For the numbers and abbreviations of its texts: "en-us" of "gmw/en-us"; characters are taken as they come."""
        return "" if self.kind == CHARACTERS else self.kind.rpartition("/")[2]

    def __call__(self, text: str, language: str | None = None) -> list[str]:
        """Symbols of the text, PAUSE at both ends.

        language: of its numbers and abbreviations, where it is not the phonemiser's.

        Raises:
            UnspeakableText: no letter in it, no such voice, or eSpeak NG is not installed.
        """
        said = spoken(text, language or self.language)
        if self.kind == CHARACTERS:
            return _characters(said)
        try:
            return espeak.phonemes(said, self.kind)
        except espeak.EspeakError as error:
            raise UnspeakableText(str(error)) from None


def _characters(text: str) -> list[str]:
    """Lower-case letters, a space between words, PAUSE in place of punctuation and at both ends."""
    found = [PAUSE]
    for character in unicodedata.normalize("NFC", text.lower()):
        symbol = PAUSE if character in _BREAKS else character if character.isalnum() or character == "'" else " "
        if symbol == " " and found[-1] in (" ", PAUSE):
            continue
        if symbol == PAUSE and found[-1] == " ":
            found.pop()
        if symbol != PAUSE or found[-1] != PAUSE:
            found.append(symbol)
    if found[-1] == " ":
        found.pop()
    if not any(map(str.isalnum, "".join(found))):
        raise UnspeakableText(f"{text!r} holds nothing that could be said")
    return found if found[-1] == PAUSE else [*found, PAUSE]
