"""The rows that a corpus reader yields: utterances with their labels, and rejects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.sources.source import Recording


@dataclass(frozen=True)
class Utterance:
    """One row of a corpus. Ingest adds the corpus name to `id`, normalises `text` and assigns the split.

    split: of the release, one of schema.SPLITS, or None.
    recording: None for a text-only row.
    slots: BIO tags, one per token.
    labels: values of the columns that tasks declare (mtl.spec.label_columns); None or absent if not labelled.
    inputs: base64 of the files of further input groups (mtl.groups.input_columns), by column.
    context: the previous turns of the dialogue, oldest first; None outside of dialogues.
    trials: "1 ID" or "0 ID" for verification: whether the row ID of this corpus is of the same speaker.
    phones, phone_ends: phones, including silence, and their ends in s, if the corpus has them; see
        mtl/tts/phonemes.py. Otherwise ingest derives phones from the text, if the recipe requires them.
    file, row: position in the label file, for messages; row is 1-based, None if the file is the row.
    """

    id: str
    split: str | None = None
    recording: Recording | None = None
    text: str | None = None
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
    """An invalid row; `reason` is one of schema.REASONS."""

    file: str
    row: int | None
    id: str | None
    reason: str
    detail: str


class CorpusError(ValueError):
    """A source without the layout of its kind of corpus, or invalid options."""


def text_lines(data: bytes) -> list[str]:
    """Lines of a UTF-8 file, without line ends. Invalid bytes become lone surrogates: see `not_utf8`."""
    lines = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff").split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def not_utf8(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
