"""Metrics and scorers of tasks.

A metric is a function of counts that are summed over rows: WER is errors over words, F1 comes from matched, predicted
and actual slots. Therefore a bootstrap can resample rows, and corpora can be combined.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mtl.answers import Prediction
from mtl.groups import group_of
from mtl.metrics.floors import Floor
from mtl.metrics.rates import ratio
from mtl.spec import TEXT, TaskSpec

Row = Mapping[str, Any]
CountsOfRow = tuple[float, ...]
Scored = dict[str, list[tuple[int, CountsOfRow]]]  # metric -> position and counts of each labelled row
TEXT_PREFIX = "text_"  # prefix of metrics of rows without audio


@dataclass(frozen=True)
class Counts:
    """Counts (N, C) of one metric per row; rows (N,): positions among the scored rows."""

    rows: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Metric:
    """value: summed counts (..., C) -> value (...) in `unit`, NaN for a zero denominator.

    columns: names of the counts; one that ends in "…" stands for one per label or score.
    floor: score of a constant answer on the same rows.
    tolerance: by how much it may be worse in a gate, by default.
    by_row: whether the counts of a single row show how good that row is.
    examples: whether the report shows the worst rows.
    by_domain: whether it is also reported for each domain of recordings.
    """

    name: str
    better: Literal["lower", "higher"]
    columns: tuple[str, ...]
    value: Callable[[np.ndarray], np.ndarray]
    floor: Floor
    by_row: bool = True
    tolerance: float = 0.5
    unit: str = "%"
    examples: bool = True
    by_domain: bool = False


def accuracy(name: str, floor: Floor, **more: Any) -> Metric:
    return Metric(name, "higher", ("correct", "rows"), ratio, floor, **more)


@dataclass(frozen=True)
class Setting:
    """hot_words: normalised phrases, for their own word error rate. known_speakers: those of the training rows, which
    verification ignores."""

    hot_words: Sequence[str] = ()
    known_speakers: Collection[str] = ()


class Scorer:
    """Metrics of a task and their counts. A subclass implements `metrics`, and `row` or `score`."""

    def metrics(self, spec: TaskSpec) -> tuple[Metric, ...]:
        raise NotImplementedError

    def row(self, spec: TaskSpec, row: Row, prediction: Prediction, setting: Setting) -> dict[str, CountsOfRow]:
        """Counts of one row with an answer, by the names of the metrics without task and TEXT_PREFIX."""
        raise NotImplementedError

    def score(self, spec: TaskSpec, rows: Sequence[Row], predictions: Sequence[Prediction], setting: Setting) -> Scored:
        """Counts of all labelled rows; rows of text have separate metrics."""
        scored: Scored = defaultdict(list)
        for position, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
            written = group_of(row) == TEXT
            if spec.name in prediction.answers and not (written and spec.from_recordings):
                prefix = f"{spec.name}/{TEXT_PREFIX if written else ''}"
                for name, counts in self.row(spec, row, prediction, setting).items():
                    scored[prefix + name].append((position, counts))
        return scored


def written_too(spec: TaskSpec, metrics: Callable[[str], tuple[Metric, ...]]) -> tuple[Metric, ...]:
    """`metrics(prefix)` of recordings and, if the task also answers from text, those of text."""
    prefixes = (f"{spec.name}/", f"{spec.name}/{TEXT_PREFIX}") if TEXT in spec.groups else (f"{spec.name}/",)
    return tuple(metric for prefix in prefixes for metric in metrics(prefix))
