"""Floors of metrics: scores of constant answers on the same rows.

    scored = ScoredRows(rows, counts)            # labels of the rows, and the counts (N, C) of a model on them
    METRICS["intent/accuracy"].floor.counts(scored)      # (N, C): of always the most frequent intent

A floor has counts per row, like a model, so the two are compared like two models. Its constants (the most frequent
label, the mean log-mel) are those of the scored rows. Floors of single tasks are defined beside their metrics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


def _none() -> Sequence[np.ndarray]:
    raise LookupError("the floor of this metric is computed from recordings, which were not passed with these rows")


@dataclass(frozen=True)
class ScoredRows:
    """Scored rows, from which floors are computed.

    rows: labels of N rows. counts (N, C): of the scored model. other: counts of another metric of that model on the
    same rows, if any. features: log-mels (T, F), waveforms: int16 (S,), of each row.
    """

    rows: Sequence[Mapping[str, Any]]
    counts: np.ndarray
    other: Callable[[str], np.ndarray | None] = lambda metric: None
    features: Callable[[], Sequence[np.ndarray]] = _none
    waveforms: Callable[[], Sequence[np.ndarray]] = _none
    hop_ms: float = 10.0


@dataclass(frozen=True)
class Floor:
    """answer: description of the constant answer. counts: (N, C) of that answer."""

    answer: str
    counts: Callable[[ScoredRows], np.ndarray]


def most_frequent(values: Sequence[Any]) -> Any:
    """The most frequent value; of ties the smallest."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def correct_of_most_frequent(values: Sequence[Any]) -> np.ndarray:
    """(correct, rows) of the most frequent value for every row."""
    constant = most_frequent(values)
    return np.array([[float(value == constant), 1.0] for value in values])


def majority(column: str) -> Floor:
    """Always the most frequent label of a column."""
    return Floor("majority class", lambda scored: correct_of_most_frequent([str(row[column]) for row in scored.rows]))


def all_deleted(answer: str) -> Floor:
    """(errors, units) with every unit of the reference deleted."""
    return Floor(answer, lambda scored: scored.counts[:, [1, 1]])


EMPTY_TRANSCRIPT = all_deleted("empty transcript")
