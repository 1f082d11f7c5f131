"""Errors of numeric answers."""

from __future__ import annotations

from functools import partial

import numpy as np

from mtl.answers import Number, Prediction
from mtl.metrics.distortion import SEMITONES
from mtl.metrics.floors import Floor, ScoredRows
from mtl.metrics.metric import CountsOfRow, Metric, Row, Scorer, Setting, written_too
from mtl.metrics.rates import mean
from mtl.spec import TaskSpec


class NumberScorer(Scorer):
    """Mean absolute error of a numeric label, in the unit of the task."""

    name = "mae"

    def metrics(self, spec: TaskSpec) -> tuple[Metric, ...]:
        columns = (spec.unit or "error", "rows")
        return written_too(
            spec, lambda prefix: (self.metric(spec, prefix, columns, spec.unit, "always the median", spec.tolerance),)
        )

    def metric(
        self, spec: TaskSpec, prefix: str, columns: tuple[str, str], unit: str, floor: str, tolerance: float
    ) -> Metric:
        median = Floor(floor, partial(self._median, spec))
        return Metric(prefix + self.name, "lower", columns, mean, median, tolerance=tolerance, unit=unit)

    def row(self, spec: TaskSpec, row: Row, prediction: Prediction, setting: Setting) -> dict[str, CountsOfRow]:
        answer, value = prediction.answers[spec.name], self.value(spec, row)
        if value is None or not isinstance(answer, Number) or not np.isfinite(value):
            return {}
        return {self.name: (self.error(answer.value, value), 1.0)}

    def value(self, spec: TaskSpec, row: Row) -> float | None:
        """True value of a row; None without one."""
        return row.get(spec.label)

    def error(self, answer: float, value: float) -> float:
        return abs(answer - value)

    def _median(self, spec: TaskSpec, scored: ScoredRows) -> np.ndarray:
        """Counts of the median, which has the smallest mean absolute error of all constants."""
        values = np.array([self.value(spec, row) for row in scored.rows], dtype=np.float64)
        constant = float(np.median(values))
        return np.array([[self.error(constant, value), 1.0] for value in values])


class TempoScorer(NumberScorer):
    """Relative error of the phones per second, measured from the phones of a recording."""

    name = "error"

    def metrics(self, spec: TaskSpec) -> tuple[Metric, ...]:
        return (self.metric(spec, f"{spec.name}/", ("percent", "rows"), "%", "always the median tempo", 0.5),)

    def value(self, spec: TaskSpec, row: Row) -> float | None:
        return len(row["durations"]) / row["duration"] if row.get("durations") and row.get("duration") else None

    def error(self, answer: float, value: float) -> float:
        return 100 * abs(answer / value - 1)


class IntonationScorer(NumberScorer):
    """Error of the standard deviation of the pitch over phones; undefined for a whisper."""

    name = "error"

    def metrics(self, spec: TaskSpec) -> tuple[Metric, ...]:
        columns, floor = ("semitones", "rows"), "always the median intonation"
        return (self.metric(spec, f"{spec.name}/", columns, "semitones", floor, 0.1),)

    def value(self, spec: TaskSpec, row: Row) -> float | None:
        return float(np.std(row["pitch"])) * SEMITONES if row.get("pitch") else None
