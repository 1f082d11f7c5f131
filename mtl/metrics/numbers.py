"""Errors of numeric answers."""

from __future__ import annotations

import numpy as np

from mtl.answers import Number, Prediction
from mtl.metrics.distortion import SEMITONES
from mtl.metrics.floors import Floor, ScoredRows
from mtl.metrics.metric import CountsOfRow, Metric, Row, Scorer, Setting, written_too
from mtl.metrics.rates import mean
from mtl.spec import TaskSpec


class NumberScorer(Scorer):
    """Mean absolute error, in the unit of the task."""

    def metrics(self, spec: TaskSpec) -> tuple[Metric, ...]:
        floor = Floor("always the median", lambda scored: _one_number(spec, scored))
        columns, tolerance, unit = (spec.unit or "error", "rows"), spec.tolerance, spec.unit

        def error(prefix: str) -> tuple[Metric, ...]:
            return (Metric(f"{prefix}mae", "lower", columns, mean, floor, tolerance=tolerance, unit=unit),)

        return written_too(spec, error)

    def row(self, spec: TaskSpec, row: Row, prediction: Prediction, setting: Setting) -> dict[str, CountsOfRow]:
        answer, label = prediction.answers[spec.name], row.get(spec.label)
        if label is None or not isinstance(answer, Number):
            return {}
        return {"mae": (abs(answer.value - label), 1.0)}


class MeasuredScorer(Scorer):
    """Error of a number that is measured from the phones of a recording instead of being annotated."""

    columns: tuple[str, str]
    unit: str
    floor: str
    tolerance: float

    def error(self, answer: float, value: float) -> float:
        raise NotImplementedError

    def metrics(self, spec: TaskSpec) -> tuple[Metric, ...]:
        floor = Floor(self.floor, self._median)
        return (
            Metric(f"{spec.name}/error", "lower", self.columns, mean, floor, tolerance=self.tolerance, unit=self.unit),
        )

    def row(self, spec: TaskSpec, row: Row, prediction: Prediction, setting: Setting) -> dict[str, CountsOfRow]:
        answer = prediction.answers[spec.name]
        if not (row.get("durations") and row.get("duration") and isinstance(answer, Number)):
            return {}
        value = self.value(row)
        return {"error": (self.error(answer.value, value), 1.0)} if np.isfinite(value) else {}

    def value(self, row: Row) -> float:
        raise NotImplementedError

    def _median(self, scored: ScoredRows) -> np.ndarray:
        values = np.array([self.value(row) for row in scored.rows])
        constant = float(np.median(values))
        return np.array([[self.error(constant, value), 1.0] for value in values])


class TempoScorer(MeasuredScorer):
    """Relative error of the phones per second."""

    columns, unit, floor, tolerance = ("percent", "rows"), "%", "always the median tempo", 0.5

    def value(self, row: Row) -> float:
        return len(row["durations"]) / row["duration"]

    def error(self, answer: float, value: float) -> float:
        return 100 * abs(answer / value - 1)


class IntonationScorer(MeasuredScorer):
    """Error of the standard deviation of the pitch; undefined for a whisper."""

    columns, unit, floor, tolerance = ("semitones", "rows"), "semitones", "always the median intonation", 0.1

    def value(self, row: Row) -> float:
        return float(np.std(row["pitch"])) * SEMITONES

    def error(self, answer: float, value: float) -> float:
        return abs(answer - value)


def _one_number(spec: TaskSpec, scored: ScoredRows) -> np.ndarray:
    """The median, which has the smallest mean absolute error of all constants."""
    values = np.array([float(row[spec.label]) for row in scored.rows])
    return np.stack([np.abs(np.median(values) - values), np.ones(len(values))], axis=1)
