"""Arrow schemas of the utterance table and the quarantine table, the same for all corpora.

One row is one utterance. A null label means "not labelled": the row trains the other tasks. The
label columns are those that the registered tasks declare (mtl/spec.py).
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from mtl import spec
from mtl.groups import input_columns

SPLITS = ("train", "valid", "test")
LABEL_TYPES = {"string": pa.string(), "number": pa.float64(), "file": pa.large_string()}  # by spec.Column.kind

# Columns that do not depend on the registered tasks.
CORE = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # unique over all corpora: "<corpus>/<utterance>"
        pa.field("corpus", pa.string(), nullable=False),  # the recipe's name for the corpus
        pa.field("split", pa.string(), nullable=False),  # one of SPLITS
        pa.field("audio", pa.string()),  # absolute path, s3:// or http URI, or a key of the store; null if text only
        pa.field("start", pa.float64()),  # s from the start of the recording
        pa.field("duration", pa.float64()),  # s; null if text only
        pa.field("sample_rate", pa.int32()),  # Hz, of the original recording
        pa.field("digest", pa.string()),  # hash of the recording's bytes and the segment; null if text only
        pa.field("text", pa.string()),  # normalised transcript or sentence
        pa.field("tokens", pa.list_(pa.string())),  # words, as many as slots
        pa.field("slots", pa.list_(pa.string())),  # BIO tags, aligned with tokens
        pa.field("speaker", pa.string()),  # unique within the corpus
        pa.field("language", pa.string()),  # BCP 47
        pa.field("context", pa.list_(pa.string())),  # normalised previous turns of the dialogue, oldest first
        pa.field("trials", pa.list_(pa.string())),  # "1 ID" or "0 ID": whether ID (same corpus) is the same speaker
        pa.field("phones", pa.list_(pa.string())),  # for synthesis: symbols of corpora.<name>.phonemes
        pa.field("phone_ends", pa.list_(pa.float64())),  # s from `start`; null if unknown
    ]
)
# Core columns that the first version of the table did not have.
ADDED = frozenset({"context", "trials", "phones", "phone_ends"})


def utterance_schema() -> pa.Schema:
    """The core columns, then nullable ones: the labels of registered tasks and the inputs of registered groups."""
    added = [pa.field(column.name, LABEL_TYPES[column.kind]) for column in (*spec.label_columns(), *input_columns())]
    return pa.schema([*CORE, *added])


def conform(rows: pa.Table) -> pa.Table:
    """A stored utterance table in the current schema."""
    schema = utterance_schema()
    for field in schema:
        if field.name in _added() and field.name not in rows.schema.names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows.select(schema.names).cast(schema)


def hashed_values(row: dict[str, Any]) -> dict[str, Any]:
    """The values of a row that enter its table's address: a null in an added column is left out.

    So a new column does not change the address of a table without values in it.
    """
    added = _added()
    return {name: value for name, value in row.items() if value is not None or name not in added}


def _added() -> frozenset[str]:
    return ADDED | {one.name for one in (*spec.label_columns(), *input_columns()) if not one.hashed_if_null}


QUARANTINE = pa.schema(
    [
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),  # the label file or recording to correct
        pa.field("row", pa.int64()),  # 1-based line or row of that file; null for the whole file
        pa.field("id", pa.string()),
        pa.field("reason", pa.string(), nullable=False),  # one of REASONS
        pa.field("detail", pa.string(), nullable=False),  # actual and expected value
    ]
)

REASONS = (
    *("undecodable", "missing_file", "empty", "all_zero", "not_finite", "too_short", "too_long"),  # recordings
    *("missing_transcript", "unspeakable", "length_mismatch", "bio_transition"),  # labels
    *("duplicate_id", "conflicting_labels", "bad_row"),
)
