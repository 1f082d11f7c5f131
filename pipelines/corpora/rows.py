"""Rows of JSON Lines, CSV and Parquet files as dicts, with an error message in place of an invalid row.

    for number, row in read_rows(source, "train.jsonl"): ...      # row is a dict, or a str that describes the error

Parquet rows may contain the audio (`audio: {bytes, path}`, as written by Hugging Face); such a cell
becomes an `Embedded`, whose bytes are read on demand.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.sources.source import Source
from pipelines.utterances.utterance import not_utf8, text_lines

Row = dict[str, Any] | str
_MAX_CELL = 1 << 24  # characters of a CSV cell


@dataclass(frozen=True)
class Embedded:
    """Audio in a Parquet file. path: original name. load: reads the bytes. position: of the cell."""

    path: str | None
    load: Callable[[], bytes]
    position: str


def read_rows(source: Source, path: str) -> Iterator[tuple[int | None, Row]]:
    """Each row with its 1-based line or row number; None if the whole file is invalid."""
    suffix = PurePosixPath(path).suffix.lower()
    reader = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet}.get(suffix, _json_lines)
    return reader(source, path)


def _json_lines(source: Source, path: str) -> Iterator[tuple[int | None, Row]]:
    for number, line in enumerate(text_lines(source.read(path)), start=1):
        if not line.strip():
            continue
        if not_utf8(line):
            yield number, "the line is not UTF-8"
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"the line is not JSON: {error}"
            continue
        yield number, row if isinstance(row, dict) else f"the line holds {type(row).__name__}, expected an object"


def _csv(source: Source, path: str) -> Iterator[tuple[int | None, Row]]:
    lines = text_lines(source.read(path))
    if not lines:
        return
    csv.field_size_limit(_MAX_CELL)
    delimiter = max(",\t;|", key=lines[0].count)
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter)
    try:
        header = [name.strip() for name in next(reader)]
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                yield reader.line_num, f"{len(cells)} cells, expected {len(header)} ({', '.join(header)})"
            elif any(map(not_utf8, cells)):
                yield reader.line_num, "the line is not UTF-8"
            else:
                yield reader.line_num, {name: cell or None for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        yield reader.line_num, f"not CSV from here on: {error}"


def _parquet(source: Source, path: str) -> Iterator[tuple[int | None, Row]]:
    number = 0
    try:
        with source.open(path) as stream, pq.ParquetFile(stream) as file:
            names = _class_names(file.schema_arrow)
            cells = _AudioCells(source, path)
            for group in range(file.num_row_groups):
                for row in _group_rows(file, group, cells):
                    number += 1
                    yield number, _with_class_names(row, names)
    except (pa.ArrowException, OSError, ValueError) as error:
        yield None, f"not a Parquet file that can be read, from row {number + 1} on: {error}"


def _group_rows(file: pq.ParquetFile, group: int, cells: _AudioCells) -> Iterator[dict[str, Any]]:
    """Rows of one row group, without audio bytes."""
    fields = list(file.schema_arrow)
    embedded = [field.name for field in fields if _holds_bytes(field)]
    paths = [f"{field.name}.path" for field in fields if _holds_bytes(field) and _has_path(field)]
    plain = [field.name for field in fields if not _holds_bytes(field)]
    table = file.read_row_group(group, columns=[*plain, *paths])
    rows = table.to_pylist() if table.num_columns else [{}] * file.metadata.row_group(group).num_rows
    # Hugging Face leaves the bytes empty if the recording is a file at `path`.
    external = {name for name in embedded if _all_null(file.metadata.row_group(group), name)}
    for index, row in enumerate(rows):
        names = {name: (row.get(name) or {}).get("path") for name in embedded}
        yield row | {
            name: path if name in external else cells.cell(name, group, index, path) for name, path in names.items()
        }


class _AudioCells:
    """Reads the audio of one row group at a time, so that large files need little memory."""

    def __init__(self, source: Source, path: str) -> None:
        self._source, self._path = source, path
        self._lock = Lock()
        # Two groups, so that threads on both sides of a group boundary do not evict each other's.
        self._group = lru_cache(maxsize=2)(self._read_group)

    def cell(self, column: str, group: int, index: int, path: str | None) -> Embedded:
        return Embedded(path, lambda: self._load(column, group, index), f"{column}:{group}:{index}")

    def _load(self, column: str, group: int, index: int) -> bytes:
        with self._lock:
            values = self._group(column, group)
        return values[index].as_py() or b""

    def _read_group(self, column: str, group: int) -> pa.ChunkedArray:
        with self._source.open(self._path) as stream, pq.ParquetFile(stream) as file:
            values = file.read_row_group(group, columns=[column])[column]
        return pc.struct_field(values, "bytes") if pa.types.is_struct(values.type) else values


def _all_null(group: pq.RowGroupMetaData, column: str) -> bool:
    """Whether no row of the group has bytes, by the file's statistics."""
    leaves = (group.column(position) for position in range(group.num_columns))
    leaf = next((leaf for leaf in leaves if leaf.path_in_schema in (f"{column}.bytes", column)), None)
    statistics = leaf.statistics if leaf is not None else None
    return statistics is not None and statistics.has_null_count and statistics.null_count == group.num_rows


def _holds_bytes(field: pa.Field) -> bool:
    kind = field.type
    if pa.types.is_struct(kind) and (index := kind.get_field_index("bytes")) >= 0:
        kind = kind.field(index).type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _has_path(field: pa.Field) -> bool:
    return pa.types.is_struct(field.type) and field.type.get_field_index("path") >= 0


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Class names of Hugging Face's ClassLabel columns, which store numbers."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: feature["names"]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _with_class_names(row: dict[str, Any], names: dict[str, list[str]]) -> dict[str, Any]:
    for column, classes in names.items():
        value = row.get(column)
        if isinstance(value, int):  # -1 means "no label"
            row[column] = classes[value] if 0 <= value < len(classes) else None
    return row
