"""What a corpus reader yields: utterances with their labels, and rows that it rejects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.sources.source import Recording


@dataclass(frozen=True)
class Utterance:
    """One row as the corpus states it; ingest adds the corpus name to `id`, normalises `text` and settles the split.

    split: the release's own, one of table.SPLITS, or None where it has none.
    recording: None for a row of text alone.
    slots: BIO tags, one for each of `tokens`.
    labels: values of the columns that tasks declare (mtl.spec.label_columns), None or left out where not labelled.
    inputs: base64 of the files of further input groups (mtl.groups.input_columns), by column.
    context: the turns of the dialogue before this one, oldest first; None where the row is no part of a dialogue.
    trials: "1 ID" or "0 ID" for verification: whether the row ID of this corpus is the same speaker.
    phones, phone_ends: what is said, silence included, and where each ends in s, for a corpus that knows; see
        mtl/tts/phonemes.py. Ingest makes phones of the text of others, where the recipe asks for them.
    file, row: where a person would mend it; row is 1-based, None when the file is the row.
    """

    id: str
    split: str | None
    recording: Recording | None
    text: str | None
    tokens: list[str] | None = None
    slots: list[str] | None = None
    speaker: str | None = None
    language: str | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str | None] = field(default_factory=dict)
    context: list[str] | None = None
    trials: list[str] | None = None
    phones: list[str] | None = None
    phone_ends: list[float] | None = None
    file: str = ""
    row: int | None = None


@dataclass(frozen=True)
class Reject:
    """A row that a reader could not turn into an utterance; `reason` is one of table.REASONS."""

    file: str
    row: int | None
    id: str | None
    reason: str
    detail: str


class CorpusError(ValueError):
    """A source that is not laid out as its kind of corpus is, or options that do not fit it."""


def text_lines(data: bytes) -> list[str]:
    """Lines of a UTF-8 file, without their ends. Bytes that are not UTF-8 become lone surrogates: see `not_utf8`."""
    lines = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff").split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def not_utf8(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
