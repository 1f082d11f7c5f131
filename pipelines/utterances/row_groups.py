"""Input groups of the rows of an utterance table, and what each row costs in a batch."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mtl.groups import group, row_groups
from mtl.spec import AUDIO, TEXT, TaskSpec


def group_names(rows: pa.Table) -> np.ndarray:
    """(N,) name of the group that each row belongs to, as mtl.groups.group_of has it."""
    names = np.full(len(rows), TEXT, dtype=object)
    for one in reversed(row_groups()[:-1]):
        names[pc.is_valid(rows[one.source]).to_numpy()] = one.name
    return names


def read_by(rows: pa.Table, spec: TaskSpec) -> np.ndarray:
    """(N,) bool: rows with an input that the task reads."""
    return np.isin(group_names(rows).astype(str), [group(name).beside or name for name in spec.groups])


def lengths_of(rows: pa.Table, name: str, members: np.ndarray) -> np.ndarray:
    """(M,) frames, words or states of those rows, all of one group; rows: Dataset.rows."""
    if name == AUDIO:
        return rows["frames"].to_numpy()[members]
    if name == TEXT:
        return word_counts(rows)[members]
    spec = group(name)
    inputs = rows.select([spec.source]).take(pa.array(members)).to_pylist()
    return np.asarray([spec.length(row) for row in inputs], dtype=np.int64)


def word_counts(rows: pa.Table) -> np.ndarray:
    """(N,) words of each row: of its tokens, or of its text."""
    tokens = pc.list_value_length(rows["tokens"])
    spoken = pc.add(pc.count_substring(rows["text"], " "), 1)
    return pc.fill_null(pc.coalesce(tokens, spoken), 0).to_numpy().astype(np.int64)
