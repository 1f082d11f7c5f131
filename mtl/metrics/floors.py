"""The floor of each metric: what a model that knows nothing reaches on the same rows.

    scored = ScoredRows(rows, counts)            # rows' labels, and the counts (N, C) of a model on them
    METRICS["intent/accuracy"].floor.counts(scored)      # (N, C): of always the most frequent intent

A floor gives counts per row, in the columns of its metric, so that a model is compared with it as with any other model.
Its constants (the most frequent label, the mean log-mel) are those of the scored rows themselves: no constant answer
can do better by having been fitted elsewhere. Floors of single tasks stand beside their metrics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


def _none() -> Sequence[np.ndarray]:
    raise LookupError("the floor of this metric is made from recordings, which were not passed with these rows")


@dataclass(frozen=True)
class ScoredRows:
    """Rows that a metric counts, and what a floor may read.

    rows: labels of N rows. counts (N, C): of the model that was scored. other: counts of another metric of that model
    on the same rows, None where it was not scored on them. features: log-mels (T, F), waveforms: int16 (S,), of each
    row.
    """

    rows: Sequence[Mapping[str, Any]]
    counts: np.ndarray
    other: Callable[[str], np.ndarray | None] = lambda metric: None
    features: Callable[[], Sequence[np.ndarray]] = _none
    waveforms: Callable[[], Sequence[np.ndarray]] = _none
    hop_ms: float = 10.0


@dataclass(frozen=True)
class Floor:
    """answer: what the model that knows nothing answers, in words. counts: (N, C) of that answer."""

    answer: str
    counts: Callable[[ScoredRows], np.ndarray]


def most_frequent(values: Sequence[Any]) -> Any:
    """The most frequent value; of equally frequent ones the first in order."""
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
    """(errors, units): every unit of the reference is missing. answer: what the floor answers, in words."""
    return Floor(answer, lambda scored: scored.counts[:, [1, 1]])


EMPTY_TRANSCRIPT = all_deleted("empty transcript")
