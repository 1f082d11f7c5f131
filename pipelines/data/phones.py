"""What a recording says to a synthesiser: the corpus's own phones, or those that are made of its text.

    phones, ends = said(utterance, corpus, duration=1.9)       # ["_", "t", …], seconds or None; None, None without

Only for corpora that ask for it (`corpora.<name>.phonemes`), and for rows that bring phones of their own.
"""

from __future__ import annotations

import math
from itertools import pairwise

from mtl.tts import espeak
from mtl.tts.phonemes import CHARACTERS, Phonemiser, UnspeakableText
from pipelines.recipe import Corpus
from pipelines.utterances.labels import LabelError
from pipelines.utterances.utterance import CorpusError, Utterance

SLACK = 0.05  # s that the last phone may end before or behind the recording's end: aligners count in frames


def check_phonemiser(corpus: Corpus) -> None:
    """Raises CorpusError where `corpora.<name>.phonemes` cannot be made here: no such voice, or no eSpeak NG."""
    if corpus.phonemes is None:
        return
    try:
        Phonemiser(corpus.phonemes)("a")
    except UnspeakableText as error:
        raise CorpusError(f"corpora.{corpus.name}.phonemes: {error}") from None


def phonemiser_version(kind: str) -> str:
    """Changes when the same text might give other phones."""
    return "1" if kind == CHARACTERS else f"1 {espeak.installed()}"


def said(utterance: Utterance, corpus: Corpus, duration: float | None) -> tuple[list[str] | None, list[float] | None]:
    """Phones of a recorded utterance, and where each ends, in s, if the corpus says so.

    Raises:
        LabelError: length_mismatch (ends that do not fit the phones or the recording), unspeakable (a text of which
            no phone can be made).
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
        raise LabelError("length_mismatch", "phone_ends do not rise; expected seconds from the start of the utterance")
    if duration is not None and abs(ends[-1] - duration) > SLACK:
        detail = f"the last phone ends at {ends[-1]:.3f} s of {duration:.3f} s; expected phones, silence among them, "
        raise LabelError("length_mismatch", f"{detail}that fill the utterance")
