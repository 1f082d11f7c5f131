"""The utterance table: one Arrow schema for every corpus, and the quarantine table beside it.

One row is one utterance. A null label means "not labelled": that row trains every other task and not this one. Labels
are never invented to fill a gap. The columns of labels are those that the registered tasks declare (mtl/spec.py).
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from mtl import spec
from mtl.groups import input_columns

SPLITS = ("train", "valid", "test")
LABEL_TYPES = {"string": pa.string(), "number": pa.float64(), "file": pa.large_string()}  # by spec.Column.kind

# Columns of every utterance, whichever tasks there are.
CORE = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # unique over all corpora: "<corpus>/<utterance>"
        pa.field("corpus", pa.string(), nullable=False),  # the recipe's name for the corpus
        pa.field("split", pa.string(), nullable=False),  # one of SPLITS
        pa.field("audio", pa.string()),  # absolute path, s3:// or http URI, or a key of the store; null for text alone
        pa.field("start", pa.float64()),  # s from the start of the recording
        pa.field("duration", pa.float64()),  # s; null for text alone
        pa.field("sample_rate", pa.int32()),  # Hz, of the recording as it lies there
        pa.field("digest", pa.string()),  # of the recording's bytes and the segment; names its features; null for text
        pa.field("text", pa.string()),  # normalised transcript or sentence
        pa.field("tokens", pa.list_(pa.string())),  # words; same length as slots where slots are given
        pa.field("slots", pa.list_(pa.string())),  # BIO tags, aligned with tokens
        pa.field("speaker", pa.string()),  # unique within the corpus
        pa.field("language", pa.string()),  # BCP 47
        pa.field("context", pa.list_(pa.string())),  # normalised turns of the dialogue before this one, oldest first
        pa.field("trials", pa.list_(pa.string())),  # "1 ID", "0 ID": is ID of the same corpus this row's speaker?
        pa.field("phones", pa.list_(pa.string())),  # what is said, for synthesis: symbols of corpora.<name>.phonemes
        pa.field("phone_ends", pa.list_(pa.float64())),  # s from `start`, where each of them ends, if that is known
    ]
)
# Core columns that the first version of the table lacked.
ADDED = frozenset({"context", "trials", "phones", "phone_ends"})


def utterance_schema() -> pa.Schema:
    """The core columns, then nullable ones: the labels of registered tasks and the inputs of registered groups."""
    added = [pa.field(column.name, LABEL_TYPES[column.kind]) for column in (*spec.label_columns(), *input_columns())]
    return pa.schema([*CORE, *added])


def conform(rows: pa.Table) -> pa.Table:
    """A stored utterance table in the present schema, whichever columns there were when it was written."""
    schema = utterance_schema()
    for field in schema:
        if field.name in _added() and field.name not in rows.schema.names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows.select(schema.names).cast(schema)


def stated(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it is hashed: without the nulls of columns that the first version of the table lacked.

    So a new column makes no new version of a table that has nothing in it.
    """
    added = _added()
    return {name: value for name, value in row.items() if value is not None or name not in added}


def _added() -> frozenset[str]:
    return ADDED | {one.name for one in (*spec.label_columns(), *input_columns()) if not one.hashed_if_null}


QUARANTINE = pa.schema(
    [
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),  # the file that a person would open to mend it
        pa.field("row", pa.int64()),  # 1-based line or row in that file; null when the file itself is at fault
        pa.field("id", pa.string()),
        pa.field("reason", pa.string(), nullable=False),  # one of REASONS
        pa.field("detail", pa.string(), nullable=False),  # what was found and what was expected
    ]
)

REASONS = (
    "undecodable",
    "missing_file",
    "empty",
    "all_zero",
    "not_finite",
    "too_short",
    "too_long",
    "missing_transcript",
    "unspeakable",
    "length_mismatch",
    "bio_transition",
    "duplicate_id",
    "conflicting_labels",
    "bad_row",
)
