"""Validates and normalises the labels of a row.

Tokens are normalised one by one, so that `tokens` are always the words of `text`: "8 38" keeps the
tag of "8:38", and a comma that is a token is removed with its tag.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mtl.spec import Column
from mtl.text.normalization import normalise, tidy
from pipelines.core.faults import InvalidRow
from pipelines.utterances.utterance import Reject, Utterance


class LabelError(InvalidRow):
    """Inconsistent or unreadable labels."""


def check_bio(tags: Sequence[str]) -> None:
    """Checks BIO tags (IOB2, Ramshaw and Marcus 1995): O, B-x, and I-x only after B-x or I-x with the same x.

    Raises:
        LabelError: bio_transition, with the position (1-based).
    """
    previous = "O"
    for position, tag in enumerate(tags, start=1):
        kind, dash, slot = tag.partition("-")
        if tag != "O" and not (kind in ("B", "I") and dash and slot):
            raise LabelError("bio_transition", f"tag {position} is {tag!r}, expected O, B-<slot> or I-<slot>")
        if kind == "I" and previous not in (f"B-{slot}", f"I-{slot}"):
            detail = f"tag {position} is {tag!r} after {previous!r}, expected B-{slot} or I-{slot} before it"
            raise LabelError("bio_transition", detail)
        previous = tag


def align(tokens: Sequence[str], tags: Sequence[str]) -> tuple[list[str], list[str]]:
    """Normalised words and their tags, which stay valid BIO.

    Raises:
        LabelError: length_mismatch, bio_transition.
    """
    if len(tokens) != len(tags):
        raise LabelError("length_mismatch", f"{len(tokens)} tokens, {len(tags)} slot tags; expected as many")
    check_bio(tags)
    words: list[str] = []
    aligned: list[str] = []
    pending = ""  # slot whose B- tag was on a token without words
    for token, tag in zip(tokens, tags, strict=True):
        slot = tag[2:]
        begins = tag.startswith("B-") or (tag.startswith("I-") and pending == slot)
        normalised = normalise(token).split()
        for position, word in enumerate(normalised):
            words.append(word)
            aligned.append("O" if not slot else f"B-{slot}" if begins and position == 0 else f"I-{slot}")
        pending = slot if begins and not normalised else ""
    return words, aligned


def clean(utterance: Utterance) -> tuple[str | None, list[str] | None, list[str] | None]:
    """Normalised text, tokens and slots; tokens only if there are slots.

    Raises:
        LabelError: length_mismatch, bio_transition, missing_transcript.
    """
    original = utterance.text if utterance.text is not None else " ".join(utterance.tokens or ())
    has_text = utterance.text is not None or utterance.tokens is not None
    text = normalise(original) if has_text else None
    if has_text and not text:
        raise LabelError("missing_transcript", f"the text is {original!r}, which holds no word")
    if not has_text and utterance.recording is None and not any(utterance.inputs.values()):
        raise LabelError("missing_transcript", "the row has neither audio nor text")
    if utterance.slots is None:
        return text, None, None
    tokens, slots = align(utterance.tokens if utterance.tokens is not None else original.split(), utterance.slots)
    if " ".join(tokens) != text:
        raise LabelError("length_mismatch", f"the tokens are {' '.join(tokens)!r}, the text is {text!r}")
    return text, tokens, slots


def clean_label(column: Column, value: Any) -> Any:
    """A label as stored: text in NFC and with single spaces, if the column is `tidied`; None if it is empty.

    Raises:
        LabelError: bad_row, for a value of another type than the column's.
    """
    if column.kind == "number":
        return _number(column, value)
    if value is None:
        return None
    if not isinstance(value, str):
        raise LabelError("bad_row", f"{column.name} is {type(value).__name__}, expected text")
    return (tidy(value) if column.tidied else value) or None


def parse_number(column: str, value: Any, expected: str) -> float | None:
    """The number in a cell; None if it is empty or NaN, which pandas writes for an empty cell.

    Raises:
        LabelError: the cell holds something else. expected: what the message asks for.
    """
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise LabelError("bad_row", f"{column} is {value!r:.80}, expected {expected}") from None
    return None if math.isnan(number) else number


def _number(column: Column, value: Any) -> float | None:
    number = parse_number(column.name, value, "a number")
    if number is not None and math.isinf(number):
        raise LabelError("bad_row", f"{column.name} is {number}, expected a finite number")
    return number


def rejected(utterance: Utterance, reason: str, detail: str) -> Reject:
    """A Reject with the utterance's id and position in its label file."""
    return Reject(utterance.file, utterance.row, utterance.id, reason, detail)
