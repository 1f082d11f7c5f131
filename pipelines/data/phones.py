"""Phones of a recording, for synthesis: those of the corpus, or derived from the text.

    phones, ends = phones_of(utterance, corpus, duration=1.9)       # ["_", "t", …], seconds or None

Only for corpora with `corpora.<name>.phonemes` and for rows that have phones.
"""

from __future__ import annotations

import math
from itertools import pairwise

from mtl.tts import espeak
from mtl.tts.phonemes import CHARACTERS, Phonemiser, UnspeakableText
from pipelines.recipe import Corpus
from pipelines.utterances.labels import LabelError
from pipelines.utterances.utterance import CorpusError, Utterance

SLACK = 0.05  # s between the last phone's end and the recording's end: aligners work in frames


def check_phonemiser(corpus: Corpus) -> None:
    """Raises CorpusError if `corpora.<name>.phonemes` is not available: unknown voice, or no eSpeak NG."""
    try:
        if corpus.phonemes is not None:
            Phonemiser(corpus.phonemes)("a")
    except UnspeakableText as error:
        raise CorpusError(f"corpora.{corpus.name}.phonemes: {error}") from None


def phonemiser_version(kind: str) -> str:
    """Changes when the phones of a text may change."""
    return "1" if kind == CHARACTERS else f"1 {espeak.installed()}"


def phones_of(
    utterance: Utterance, corpus: Corpus, duration: float | None
) -> tuple[list[str] | None, list[float] | None]:
    """Phones of a recorded utterance, and their ends in s if the corpus gives them.

    Raises:
        LabelError: length_mismatch (the ends do not match the phones or the recording), unspeakable
            (no phone can be derived from the text).
    """
    if utterance.phones is not None:
        _check_ends(utterance.phones, utterance.phone_ends, duration)
        return utterance.phones, utterance.phone_ends
    if corpus.phonemes is None or utterance.recording is None or not utterance.text:
        return None, None
    try:
        return Phonemiser(corpus.phonemes)(utterance.text, utterance.language or corpus.language), None
    except UnspeakableText as error:
        raise LabelError("unspeakable", str(error)) from None


def _check_ends(phones: list[str], ends: list[float] | None, duration: float | None) -> None:
    if not phones or not all(phones):
        raise LabelError("length_mismatch", f"phones are {phones[:8]}, expected one or more, none of them empty")
    if ends is None:
        return
    if len(ends) != len(phones):
        raise LabelError("length_mismatch", f"{len(phones)} phones, {len(ends)} ends; expected as many")
    if not all(map(math.isfinite, ends)) or ends[0] < 0 or any(later < end for end, later in pairwise(ends)):
        detail = "phone_ends do not increase; expected seconds from the start of the utterance"
        raise LabelError("length_mismatch", detail)
    if duration is not None and abs(ends[-1] - duration) > SLACK:
        detail = f"the last phone ends at {ends[-1]:.3f} s of {duration:.3f} s; expected phones, with silence, for all"
        raise LabelError("length_mismatch", f"{detail} of the utterance")
