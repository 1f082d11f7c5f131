"""Your own data: one row an utterance in JSON Lines (NeMo's manifests), CSV, TSV or Parquet (Hugging Face's too).

    {"audio_filepath": "audio/a.flac", "text": "turn on the light", "speaker": "ann", "intent": "light_on"}

Columns are named as in the utterance table (pipelines/utterances/schema.py) or by the aliases below; others
are ignored. A row
without audio trains on text alone; a label that is left out is not labelled. Paths are relative to the manifest.
`offset` and `duration` cut a segment; a `duration` alone that fits the recording's length means all of it.

The source is a manifest file, or a folder, archive or prefix with manifests in it. Options:
    manifest: which files: a pattern, a list, or a mapping of splits to patterns, e.g. {train: "data/train-*.parquet"}
    columns: {column of the table: column of your file}
    transcripts: "optional" lets recordings pass whose text cell is empty (they train the other tasks)
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
from pipelines.corpora.base import SPLIT_NAMES, Reader, check_options, need_source
from pipelines.corpora.rows import Embedded, Row, read_rows
from pipelines.recipe import Corpus
from pipelines.sources.source import Recording, Source, SourceError
from pipelines.storage.store import fingerprint
from pipelines.utterances.utterance import CorpusError, Reject, Utterance

SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet")
# Core column of the utterance table -> names that other tools give it; the first that a row has wins. Columns of
# labels have theirs in mtl.spec.
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


class RowError(ValueError):
    """A row that does not make an utterance; `reason` is one of table.REASONS."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def read(source: Source | None, corpus: Corpus) -> Iterator[Utterance | Reject]:
    """One utterance a row, file after file.

    Raises:
        CorpusError: no manifest where one was expected, or an option that does not fit.
    """
    source = need_source(source, corpus)
    taken: set[str] = set()
    for path, split in manifests(source, corpus):
        yield from _File(source, corpus, path, split, taken).utterances()


def fingerprint_of(source: Source | None, corpus: Corpus) -> str:
    """Of the manifests and of the recordings that they name, which may lie anywhere; of an archive, its own."""
    source = need_source(source, corpus)
    if not source.lasting:
        return source.fingerprint()
    stamps = []
    for path, split in manifests(source, corpus):
        stamps.append([path, split, source.stamp(path)])
        file = _File(source, corpus, path, split, set())
        stamps += [[name, source.stamp(name)] for name in file.recordings()]
    return fingerprint(stamps)


def manifests(source: Source, corpus: Corpus) -> list[tuple[str, str | None]]:
    """Manifest files, each with the split that the options give it."""
    check_options(corpus, ("manifest", "columns", "transcripts"))
    if source.focus is not None:
        return [(source.focus, None)]
    paths = [file.path for file in source.files()]
    given = corpus.options.get("manifest")
    if given is None:
        return _unnamed(source, paths)
    wanted = given if isinstance(given, Mapping) else {None: given}
    found: list[tuple[str, str | None]] = []
    for name, patterns in wanted.items():
        split = None if name is None else SPLIT_NAMES.get(str(name))
        if name is not None and split is None:
            raise CorpusError(
                f"corpora.{corpus.name}.options.manifest: {name!r} is no split; expected train, valid, test"
            )
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            matching = [path for path in paths if fnmatchcase(path, pattern)]
            if not matching:
                raise CorpusError(f"{source.uri}: no file matches options.manifest {pattern!r}")
            found += [(path, split) for path in matching]
    return found


def _unnamed(source: Source, paths: list[str]) -> list[tuple[str, str | None]]:
    """The manifests nearest to the top of a source."""
    known = [PurePosixPath(path) for path in paths if PurePosixPath(path).suffix.lower() in SUFFIXES]
    if not known:
        raise CorpusError(f"{source.uri}: holds no manifest; expected a file ending in {', '.join(SUFFIXES)}")
    top = min(len(path.parts) for path in known)
    return [(str(path), None) for path in known if len(path.parts) == top]


class _File:
    """One manifest file."""

    def __init__(self, source: Source, corpus: Corpus, path: str, split: str | None, taken: set[str]) -> None:
        self.source = source
        self.path = PurePosixPath(path)
        self.split = split
        self.taken = taken  # ids that were made up so far, over all files of the corpus
        self.where = source.locate(path)
        self.optional = corpus.options.get("transcripts", "required") == "optional"
        self.columns = _columns(corpus)
        self.has_text = False

    def utterances(self) -> Iterator[Utterance | Reject]:
        rows = [(number, self._renamed(row)) for number, row in read_rows(self.source, str(self.path))]
        # A file with a column of transcripts means to give them all.
        self.has_text = any(isinstance(row, dict) and row.get("text") for _, row in rows)
        for number, row in rows:
            if isinstance(row, str):
                yield Reject(self.where, number, None, "bad_row", row)
                continue
            try:
                yield self._utterance(number, row)
            except RowError as error:
                name = row.get("id")
                yield Reject(self.where, number, None if name is None else str(name), error.reason, error.detail)

    def recordings(self) -> list[str]:
        """Paths, in the source, of the recordings that the rows name."""
        found = set()
        for _, row in read_rows(self.source, str(self.path)):
            renamed = self._renamed(row)
            for column in ("audio", *(column.name for column in input_columns())):
                cell = renamed.get(column) if isinstance(renamed, dict) else None
                name = cell.get("path") if isinstance(cell, Mapping) else cell
                if isinstance(name, str) and "://" not in name:
                    with suppress(SourceError):
                        found.add(self.source.resolve(str(self.path.parent), name))
        return sorted(found)

    def _renamed(self, row: Row) -> Row:
        """Cells under the table's own column names; a column that the row lacks is left out."""
        if isinstance(row, str):
            return row
        renamed = {}
        for column, names in self.columns.items():
            present = next((name for name in names if name in row), None)
            if present is not None:
                renamed[column] = row[present]
        return renamed

    def _utterance(self, number: int | None, row: dict[str, Any]) -> Utterance:
        recording = self._recording(row)
        text, tokens = _text(row, "text"), _words(row, "tokens")
        if recording is not None and self.has_text and not self.optional and not (text or "").strip() and not tokens:
            raise RowError("missing_transcript", f"text is {row.get('text')!r}")
        labels = {column.name: _label(row, column) for column in label_columns()}
        inputs = {one.source: self._input(row, one) for one in groups() if one.column}
        if recording is None and not (text or "").strip() and not tokens and not any(inputs.values()):
            raise RowError("bad_row", f"neither audio nor text; the columns understood are {', '.join(row) or 'none'}")
        return Utterance(
            id=_text(row, "id") or self._made_up(number, recording, row),
            split=self._split(row),
            recording=recording,
            text=text if (text or "").strip() or recording is None else None,
            tokens=tokens,
            slots=_words(row, "slots"),
            speaker=_text(row, "speaker") or None,
            language=_text(row, "language") or None,
            labels=labels,
            inputs=inputs,
            context=_turns(row),
            phones=_words(row, "phones"),
            phone_ends=_ends(row),
            file=self.where,
            row=number,
        )

    def _split(self, row: dict[str, Any]) -> str | None:
        stated = _text(row, "split")
        if not stated:
            return self.split
        split = SPLIT_NAMES.get(stated.lower())
        if split is None:
            raise RowError("bad_row", f"split is {stated!r}, expected train, valid or test")
        return split

    def _recording(self, row: dict[str, Any]) -> Recording | None:
        audio = row.get("audio")
        start, duration = _seconds(row, "start") or 0.0, _seconds(row, "duration")
        if isinstance(audio, Embedded):
            return self._embedded(audio, start, duration)
        if isinstance(audio, Mapping):  # JSON written from a Hugging Face row
            audio = audio.get("path")
        if audio is None or audio == "":
            return None
        if not isinstance(audio, str):
            raise RowError("bad_row", f"audio is {type(audio).__name__}, expected a path")
        if "://" in audio and not audio.startswith("s3://"):
            raise RowError("bad_row", f"audio is {redact(audio)!r}, expected a path; download it first")
        if audio.startswith("s3://") and not self.source.uri.startswith("s3://") and self.source.lasting:
            return Recording(uri=audio, name=audio, start=start, duration=duration)
        try:
            path = self.source.resolve(str(self.path.parent), audio)
        except SourceError as error:
            raise RowError("bad_row", f"audio: {error}") from error
        if not self.source.stamp(path):
            raise RowError("missing_file", f"no recording {self.source.locate(path)}")
        return self.source.recording(path, start, duration)

    def _input(self, row: dict[str, Any], group: GroupSpec) -> str | None:
        """Base64 of the file of an input group, which the row names or, in Parquet, holds."""
        cell = row.get(group.source)
        name = cell.get("path") if isinstance(cell, Mapping) else cell
        if name is None or name == "":
            return None
        if isinstance(name, Embedded):
            content = name.load()
        elif isinstance(name, str):
            content = self._read(name, group.source)
        else:
            raise RowError("bad_row", f"{group.source} is {type(cell).__name__}, expected a path")
        try:
            group.check(content)
        except ValueError as error:
            raise RowError("undecodable", f"{group.source}: {error}") from error
        return base64.b64encode(content).decode()

    def _read(self, name: str, column: str) -> bytes:
        try:
            path = self.source.resolve(str(self.path.parent), name)
        except SourceError as error:
            raise RowError("bad_row", f"{column}: {error}") from error
        if not self.source.stamp(path):
            raise RowError("missing_file", f"no file {self.source.locate(path)}")
        return self.source.read(path)

    def _embedded(self, audio: Embedded, start: float, duration: float | None) -> Recording:
        name = f"{self.where}!/{redact(audio.path or 'audio')}"
        stamp = f"{self.source.stamp(str(self.path))}:{audio.place}"
        return Recording(load=audio.load, name=name, start=start, duration=duration, stamp=stamp)

    def _made_up(self, number: int | None, recording: Recording | None, row: dict[str, Any]) -> str:
        """An id for a row that has none: its recording's name and segment, else its place in the file."""
        audio = row.get("audio")
        name = audio.path if isinstance(audio, Embedded) else audio.get("path") if isinstance(audio, Mapping) else audio
        name = redact(name) if name and "://" in name else name
        stem = str(PurePosixPath(name).with_suffix("")).lstrip("/") if name else f"{self.path.stem}-{number}"
        if recording is not None and recording.start:
            stem += f"-{recording.start:.3f}"
        # One recording in two rows is no duplicate id, which nobody stated; ingest compares their labels.
        made = f"{stem}#{number}" if stem in self.taken else stem
        if made in self.taken:
            made = f"{self.path.stem}/{made}"
        self.taken.add(made)
        return made


def _columns(corpus: Corpus) -> dict[str, tuple[str, ...]]:
    chosen = corpus.options.get("columns") or {}
    if not isinstance(chosen, Mapping):
        raise CorpusError(
            f"corpora.{corpus.name}.options.columns is {chosen!r}, expected {{column: name in your file}}"
        )
    aliases = {**ALIASES, **{one.name: (one.name, *one.aliases) for one in (*label_columns(), *input_columns())}}
    for column in chosen:
        if column not in aliases:
            raise CorpusError(
                f"corpora.{corpus.name}.options.columns.{column}: no such column; expected one of {', '.join(aliases)}"
            )
    return {column: (str(chosen[column]),) if column in chosen else names for column, names in aliases.items()}


def _label(row: Mapping[str, Any], column: Column) -> Any:
    """A label's cell, None where it is empty; ingest checks its kind."""
    return row.get(column.name) if column.kind == "number" else _text(row, column.name) or None


def _text(row: Mapping[str, Any], column: str) -> str | None:
    value = row.get(column)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError("bad_row", f"{column} is {type(value).__name__}, expected text")
    if isinstance(value, float) and not math.isfinite(value):  # how pandas writes an empty cell
        return None
    # A column of numbers with gaps comes back from pandas as floats: speaker 7.0 is speaker 7.
    return str(int(value)) if float(value).is_integer() else str(value)


def _words(row: Mapping[str, Any], column: str) -> list[str] | None:
    value = row.get(column)
    if value is None:
        return None
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return value
    raise RowError("bad_row", f"{column} is {value!r:.80}, expected a list of words or words joined by spaces")


def _turns(row: Mapping[str, Any]) -> list[str] | None:
    value = row.get("context")
    if value is None or (isinstance(value, list) and all(isinstance(turn, str) for turn in value)):
        return value
    raise RowError("bad_row", f"context is {value!r:.80}, expected a list of the turns before, oldest first")


def _ends(row: Mapping[str, Any]) -> list[float] | None:
    value = row.get("phone_ends")
    if isinstance(value, str):  # a cell of CSV
        value = value.split()
    if value is None:
        return None
    try:
        return [float(end) for end in value]
    except (TypeError, ValueError):
        raise RowError("bad_row", f"phone_ends is {value!r:.80}, expected a list of seconds") from None


def _seconds(row: Mapping[str, Any], column: str) -> float | None:
    value = row.get(column)
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise RowError("bad_row", f"{column} is {value!r:.80}, expected seconds") from None
    if math.isnan(seconds):
        return None
    if not 0 <= seconds < math.inf or (column == "duration" and seconds == 0):
        raise RowError("bad_row", f"{column} is {seconds:g}, expected seconds from 0 on")
    return seconds


READER = Reader(read, fingerprint_of)
