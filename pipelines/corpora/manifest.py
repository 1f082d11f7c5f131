"""Manifests: one row per utterance in JSON Lines (NeMo), CSV, TSV or Parquet (including Hugging Face's).

    {"audio_filepath": "audio/a.flac", "text": "turn on the light", "speaker": "ann", "intent": "light_on"}

Columns have the names of the utterance table (pipelines/utterances/schema.py) or the aliases below; others are
ignored. A row without audio is text only; a missing label means "not labelled". Paths are relative to the manifest.
`offset` and `duration` select a segment; a `duration` equal to the recording's length means the whole recording.

The source is a manifest file, or a folder, archive or prefix with manifests in it. Options:
    manifest: the files: a pattern, a list, or a mapping of splits to patterns, e.g. {train: "data/train-*.parquet"}
    columns: {column of the table: column of your file}
    transcripts: "optional" accepts recordings with an empty text cell (they train the other tasks)
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from mtl.groups import GroupSpec, groups, input_columns
from mtl.spec import Column, label_columns
from pipelines.core.redaction import redact
from pipelines.corpora.base import SPLIT_NAMES, Rows, reader
from pipelines.corpora.rows import Embedded, Row, read_rows
from pipelines.recipe import Corpus
from pipelines.sources.source import Recording, Source, SourceError
from pipelines.storage.store import fingerprint
from pipelines.utterances.labels import LabelError, parse_number
from pipelines.utterances.utterance import CorpusError, Reject, Utterance

SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet")
# Core column of the utterance table -> accepted names, by precedence. Label columns declare theirs in mtl.spec.
ALIASES = {
    "id": ("id", "utterance_id", "utt_id", "utt"),
    "split": ("split", "subset"),
    "audio": ("audio", "audio_filepath", "audio_path", "path", "file", "wav"),
    "start": ("start", "offset"),
    "duration": ("duration",),
    "text": ("text", "transcript", "transcription", "sentence"),
    "tokens": ("tokens",),
    "slots": ("slots", "tags"),
    "speaker": ("speaker", "speaker_id", "spk"),
    "language": ("language", "lang", "locale"),
    "context": ("context", "history"),
    "phones": ("phones", "phonemes"),
    "phone_ends": ("phone_ends",),
}


def read(source: Source, corpus: Corpus) -> Rows:
    """One utterance per row of each manifest."""
    generated_ids: set[str] = set()
    for path, split in _manifests(source, corpus):
        yield from _File(source, corpus, path, split, generated_ids).utterances()


def fingerprint_of(source: Source, corpus: Corpus) -> str:
    """Of the manifests and the recordings that they name; of an archive, the archive's."""
    if not source.permanent:
        return source.fingerprint()
    stamps = []
    for path, split in _manifests(source, corpus):
        stamps.append([path, split, source.stamp(path)])
        file = _File(source, corpus, path, split, set())
        stamps += [[name, source.stamp(name)] for name in file.recordings()]
    return fingerprint(stamps)


def _manifests(source: Source, corpus: Corpus) -> list[tuple[str, str | None]]:
    """Manifest files, each with the split that the options assign to it."""
    if source.focus is not None:
        return [(source.focus, None)]
    paths = [file.path for file in source.files()]
    option = corpus.options.get("manifest")
    if option is None:
        return _default_manifests(source, paths)
    manifests: list[tuple[str, str | None]] = []
    for name, patterns in (option if isinstance(option, Mapping) else {None: option}).items():
        split = None if name is None else SPLIT_NAMES.get(str(name))
        if name is not None and split is None:
            raise CorpusError(
                f"corpora.{corpus.name}.options.manifest: {name!r} is no split; expected train, valid, test"
            )
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            matching = [path for path in paths if fnmatchcase(path, pattern)]
            if not matching:
                raise CorpusError(f"{source.uri}: no file matches options.manifest {pattern!r}")
            manifests += [(path, split) for path in matching]
    return manifests


def _default_manifests(source: Source, paths: list[str]) -> list[tuple[str, str | None]]:
    """The manifests in the topmost folder that has any."""
    known = [PurePosixPath(path) for path in paths if PurePosixPath(path).suffix.lower() in SUFFIXES]
    if not known:
        raise CorpusError(f"{source.uri}: holds no manifest; expected a file ending in {', '.join(SUFFIXES)}")
    top = min(len(path.parts) for path in known)
    return [(str(path), None) for path in known if len(path.parts) == top]


class _File:
    """One manifest file."""

    def __init__(self, source: Source, corpus: Corpus, path: str, split: str | None, generated_ids: set[str]) -> None:
        self.source = source
        self.path = PurePosixPath(path)
        self.split = split
        self.generated_ids = generated_ids  # over all files of the corpus
        self.where = source.locate(path)
        self.columns = _columns(corpus)
        self.transcripts_optional = corpus.options.get("transcripts", "required") == "optional"
        self.needs_text = False

    def rows(self) -> Iterator[tuple[int | None, Row]]:
        """Rows with the table's own column names; a column that the row lacks is left out."""
        for number, row in read_rows(self.source, str(self.path)):
            if isinstance(row, str):
                yield number, row
                continue
            present = {column: next((n for n in names if n in row), None) for column, names in self.columns.items()}
            yield number, {column: row[name] for column, name in present.items() if name is not None}

    def utterances(self) -> Rows:
        rows = list(self.rows())
        # If a file has transcripts, each recording needs one.
        has_text = any(isinstance(row, dict) and row.get("text") for _, row in rows)
        self.needs_text = has_text and not self.transcripts_optional
        for number, row in rows:
            if isinstance(row, str):
                yield Reject(self.where, number, None, "bad_row", row)
                continue
            try:
                yield self._utterance(number, row)
            except LabelError as error:
                name = row.get("id")
                yield Reject(self.where, number, None if name is None else str(name), error.reason, error.detail)

    def recordings(self) -> list[str]:
        """Paths, in the source, of the recordings that the rows name."""
        paths = set()
        columns = ("audio", *(column.name for column in input_columns()))
        for _, row in self.rows():
            for cell in [row.get(column) for column in columns] if isinstance(row, dict) else []:
                name = cell.get("path") if isinstance(cell, Mapping) else cell
                if isinstance(name, str) and "://" not in name:
                    with suppress(SourceError):
                        paths.add(self.source.resolve(str(self.path.parent), name))
        return sorted(paths)

    def _utterance(self, number: int | None, row: dict[str, Any]) -> Utterance:
        recording = self._recording(row)
        text, tokens = _text(row, "text"), _words(row, "tokens")
        has_words = bool((text or "").strip() or tokens)
        if recording is not None and self.needs_text and not has_words:
            raise LabelError("missing_transcript", f"text is {row.get('text')!r}")
        labels = {column.name: _label(row, column) for column in label_columns()}
        inputs = {group.source: self._input(row, group) for group in groups() if group.column}
        if recording is None and not has_words and not any(inputs.values()):
            columns = ", ".join(row) or "none"
            raise LabelError("bad_row", f"neither audio nor text; the columns understood are {columns}")
        return Utterance(
            id=_text(row, "id") or self._generated_id(number, recording, row),
            split=self._split(row),
            recording=recording,
            text=text if (text or "").strip() or recording is None else None,
            tokens=tokens,
            slots=_words(row, "slots"),
            speaker=_text(row, "speaker") or None,
            language=_text(row, "language") or None,
            labels=labels,
            inputs=inputs,
            context=_strings(row, "context", "a list of the previous turns, oldest first"),
            phones=_words(row, "phones"),
            phone_ends=_phone_ends(row),
            file=self.where,
            row=number,
        )

    def _split(self, row: dict[str, Any]) -> str | None:
        stated = _text(row, "split")
        if not stated:
            return self.split
        split = SPLIT_NAMES.get(stated.lower())
        if split is None:
            raise LabelError("bad_row", f"split is {stated!r}, expected train, valid or test")
        return split

    def _recording(self, row: dict[str, Any]) -> Recording | None:
        audio = row.get("audio")
        start, duration = _seconds(row, "start") or 0.0, _seconds(row, "duration")
        if isinstance(audio, Embedded):
            return self._embedded(audio, start, duration)
        if isinstance(audio, Mapping):  # a Hugging Face row that was exported as JSON
            audio = audio.get("path")
        if audio is None or audio == "":
            return None
        if not isinstance(audio, str):
            raise LabelError("bad_row", f"audio is {type(audio).__name__}, expected a path")
        if "://" in audio and not audio.startswith("s3://"):
            raise LabelError("bad_row", f"audio is {redact(audio)!r}, expected a path; download it first")
        if audio.startswith("s3://") and not self.source.uri.startswith("s3://") and self.source.permanent:
            return Recording(uri=audio, name=audio, start=start, duration=duration)
        return self.source.recording(self._resolve(audio, "audio"), start, duration)

    def _input(self, row: dict[str, Any], group: GroupSpec) -> str | None:
        """Base64 of the file of an input group, which the row names or, in Parquet, holds."""
        cell = row.get(group.source)
        name = cell.get("path") if isinstance(cell, Mapping) else cell
        if name is None or name == "":
            return None
        if isinstance(name, Embedded):
            content = name.load()
        elif isinstance(name, str):
            content = self.source.read(self._resolve(name, group.source))
        else:
            raise LabelError("bad_row", f"{group.source} is {type(cell).__name__}, expected a path")
        try:
            group.check(content)
        except ValueError as error:
            raise LabelError("undecodable", f"{group.source}: {error}") from error
        return base64.b64encode(content).decode()

    def _resolve(self, name: str, column: str) -> str:
        """The path, in the source, of an existing file that a row names."""
        try:
            path = self.source.resolve(str(self.path.parent), name)
        except SourceError as error:
            raise LabelError("bad_row", f"{column}: {error}") from error
        if not self.source.stamp(path):
            what = "recording" if column == "audio" else "file"
            raise LabelError("missing_file", f"no {what} {self.source.locate(path)}")
        return path

    def _embedded(self, audio: Embedded, start: float, duration: float | None) -> Recording:
        name = f"{self.where}!/{redact(audio.path or 'audio')}"
        stamp = f"{self.source.stamp(str(self.path))}:{audio.position}"
        return Recording(load=audio.load, name=name, start=start, duration=duration, stamp=stamp)

    def _generated_id(self, number: int | None, recording: Recording | None, row: dict[str, Any]) -> str:
        """An id for a row without one: the name and segment of its recording, else its line."""
        audio = row.get("audio")
        name = audio.path if isinstance(audio, Embedded) else audio.get("path") if isinstance(audio, Mapping) else audio
        name = redact(name) if name and "://" in name else name
        stem = str(PurePosixPath(name).with_suffix("")).lstrip("/") if name else f"{self.path.stem}-{number}"
        if recording is not None and recording.start:
            stem += f"-{recording.start:.3f}"
        # Two rows of one recording get different ids; ingest compares their labels.
        unique = f"{stem}#{number}" if stem in self.generated_ids else stem
        if unique in self.generated_ids:
            unique = f"{self.path.stem}/{unique}"
        self.generated_ids.add(unique)
        return unique


def _columns(corpus: Corpus) -> dict[str, tuple[str, ...]]:
    """Column of the table -> accepted names, after `options.columns`."""
    option, where = corpus.options.get("columns") or {}, f"corpora.{corpus.name}.options.columns"
    if not isinstance(option, Mapping):
        raise CorpusError(f"{where} is {option!r}, expected {{column: name in your file}}")
    aliases = {**ALIASES, **{one.name: (one.name, *one.aliases) for one in (*label_columns(), *input_columns())}}
    if unknown := [column for column in option if column not in aliases]:
        raise CorpusError(f"{where}.{unknown[0]}: no such column; expected one of {', '.join(aliases)}")
    return {column: (str(option[column]),) if column in option else names for column, names in aliases.items()}


def _label(row: Mapping[str, Any], column: Column) -> Any:
    """A label's cell, or None if it is empty; ingest checks its type."""
    return row.get(column.name) if column.kind == "number" else _text(row, column.name) or None


def _text(row: Mapping[str, Any], column: str) -> str | None:
    value = row.get(column)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LabelError("bad_row", f"{column} is {type(value).__name__}, expected text")
    if isinstance(value, float) and not math.isfinite(value):  # pandas writes NaN for an empty cell
        return None
    # pandas writes integers as floats in a column with empty cells: speaker 7.0 is speaker 7.
    return str(int(value)) if float(value).is_integer() else str(value)


def _strings(row: Mapping[str, Any], column: str, expected: str) -> list[str] | None:
    value = row.get(column)
    if value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        return value
    raise LabelError("bad_row", f"{column} is {value!r:.80}, expected {expected}")


def _words(row: Mapping[str, Any], column: str) -> list[str] | None:
    value = row.get(column)
    expected = "a list of words or words joined by spaces"
    return value.split() if isinstance(value, str) else _strings(row, column, expected)


def _phone_ends(row: Mapping[str, Any]) -> list[float] | None:
    value = row.get("phone_ends")
    try:
        return None if value is None else [float(end) for end in (value.split() if isinstance(value, str) else value)]
    except (TypeError, ValueError):
        raise LabelError("bad_row", f"phone_ends is {value!r:.80}, expected a list of seconds") from None


def _seconds(row: Mapping[str, Any], column: str) -> float | None:
    seconds = parse_number(column, row.get(column), "seconds")
    if seconds is None:
        return None
    if not 0 <= seconds < math.inf or (column == "duration" and seconds == 0):
        raise LabelError("bad_row", f"{column} is {seconds:g}, expected seconds from 0 on")
    return seconds


READER = reader(read, "manifest", "columns", "transcripts", fingerprint=fingerprint_of)
