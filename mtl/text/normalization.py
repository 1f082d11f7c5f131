"""Normalisation of text: the one form in which texts are trained on, scored and compared."""

from __future__ import annotations

import re
import unicodedata

_NOT_SPOKEN = re.compile(r"[^\w' ]+|_", re.UNICODE)


def normalise(text: str) -> str:
    """Lower case, NFC, apostrophes straight, punctuation and repeated spaces gone: the form that WER compares."""
    text = unicodedata.normalize("NFC", text).lower().replace("\u2019", "'")
    return " ".join(_NOT_SPOKEN.sub(" ", text).split())


def tidy(text: str) -> str:
    """NFC, and single spaces: a translation keeps its case and punctuation, which are scored."""
    return " ".join(unicodedata.normalize("NFC", text).split())
