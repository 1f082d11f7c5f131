"""Normalisation of text for training and scoring."""

from __future__ import annotations

import re
import unicodedata

_NOT_SPOKEN = re.compile(r"[^\w' ]+|_", re.UNICODE)


def normalise(text: str) -> str:
    """Lower case, NFC, straight apostrophes, no punctuation, single spaces: the form in which WER compares texts."""
    text = unicodedata.normalize("NFC", text).lower().replace("\u2019", "'")
    return " ".join(_NOT_SPOKEN.sub(" ", text).split())


def tidy(text: str) -> str:
    """NFC and single spaces; case and punctuation stay, because they are scored in translations."""
    return " ".join(unicodedata.normalize("NFC", text).split())
