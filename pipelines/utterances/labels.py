"""What the labels of a row must satisfy before it may train anything; no audio is opened here.

Words of a row are normalised one by one, so that `tokens` are always the words of `text`: a tag meant for
"8:38" stays on "8 38", and a comma that was a token of its own takes its tag with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mtl.spec import Column
from mtl.text.normalization import normalise, tidy
from pipelines.utterances.utterance import Reject, Utterance


class LabelError(ValueError):
    """Labels that contradict each other; `reason` is one of table.REASONS."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def check_bio(tags: Sequence[str]) -> None:
    """BIO (IOB2, Ramshaw and Marcus 1995): O, B-x, and I-x only behind B-x or I-x of the same x.

    Raises:
        LabelError: bio_transition, naming the position (1-based).
    """
    previous = "O"
    for position, tag in enumerate(tags, start=1):
        kind, dash, slot = tag.partition("-")
        if tag != "O" and not (kind in ("B", "I") and dash and slot):
            raise LabelError("bio_transition", f"tag {position} is {tag!r}, expected O, B-<slot> or I-<slot>")
        if kind == "I" and previous not in (f"B-{slot}", f"I-{slot}"):
            detail = f"tag {position} is {tag!r} behind {previous!r}, expected B-{slot} or I-{slot} before it"
            raise LabelError("bio_transition", detail)
        previous = tag


def align(tokens: Sequence[str], tags: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tokens as normalised words, each with its tag. Both lists have one length, and the tags stay valid BIO.

    Raises:
        LabelError: length_mismatch, bio_transition.
    """
    if len(tokens) != len(tags):
        raise LabelError("length_mismatch", f"{len(tokens)} tokens, {len(tags)} slot tags; expected as many")
    check_bio(tags)
    words: list[str] = []
    aligned: list[str] = []
    pending = ""  # slot whose B- stood on a token without words
    for token, tag in zip(tokens, tags, strict=True):
        slot = tag[2:]
        begins = tag.startswith("B-") or (tag.startswith("I-") and pending == slot)
        spoken = normalise(token).split()
        for position, word in enumerate(spoken):
            words.append(word)
            aligned.append("O" if not slot else f"B-{slot}" if begins and position == 0 else f"I-{slot}")
        pending = slot if begins and not spoken else ""
    return words, aligned


def clean(utterance: Utterance) -> tuple[str | None, list[str] | None, list[str] | None]:
    """Text, tokens and slots as the table keeps them: normalised; tokens only where there are slots.

    Raises:
        LabelError: length_mismatch, bio_transition, missing_transcript.
    """
    stated = utterance.text if utterance.text is not None else " ".join(utterance.tokens or ())
    given = utterance.text is not None or utterance.tokens is not None
    text = normalise(stated) if given else None
    if given and not text:
        raise LabelError("missing_transcript", f"the text is {stated!r}, which holds no word")
    if not given and utterance.recording is None and not any(utterance.inputs.values()):
        raise LabelError("missing_transcript", "the row has neither audio nor text")
    if utterance.slots is None:
        return text, None, None
    tokens, slots = align(utterance.tokens if utterance.tokens is not None else stated.split(), utterance.slots)
    if " ".join(tokens) != text:
        raise LabelError("length_mismatch", f"the tokens read {' '.join(tokens)!r}, the text {text!r}")
    return text, tokens, slots


def clean_label(column: Column, value: Any) -> Any:
    """A label as the table keeps it: text as it is written, but NFC and with single spaces; None where it is empty.

    Raises:
        LabelError: bad_row, for a value of another kind than the column's.
    """
    if column.kind == "number":
        return _number(column, value)
    if value is None:
        return None
    if not isinstance(value, str):
        raise LabelError("bad_row", f"{column.name} is {type(value).__name__}, expected text")
    return (tidy(value) if column.tidied else value) or None


def _number(column: Column, value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise LabelError("bad_row", f"{column.name} is {value!r:.80}, expected a number") from None
    if math.isnan(number):
        return None
    if math.isinf(number):
        raise LabelError("bad_row", f"{column.name} is {number}, expected a finite number")
    return number


def rejected(utterance: Utterance, reason: str, detail: str) -> Reject:
    """The utterance as a quarantine row that points at its label file."""
    return Reject(utterance.file, utterance.row, utterance.id, reason, detail)
