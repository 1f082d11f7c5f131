"""Scores of a study's cells, resampled together, and their relative gains.

Gains are relative to the single-task model, in percent, positive for better (mtl/analysis/transfer.py). A task is
measured by the first of METRICS that every model with the task was scored on. Intervals come from a bootstrap over
rows and seeds (mtl/metrics/bootstrap.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from mtl.analysis.transfer import Tasks, relative_gain
from mtl.metrics.bootstrap import RESAMPLES, estimate, pigeonhole_bootstrap
from mtl.metrics.scoring import METRICS
from pipelines.evaluation.evaluate import Scores
from pipelines.study.cells import Study, StudyError, closed

Change = dict[str, float | None]  # value or gain, low, high, in percent; None where there is nothing to divide by
NO_CHANGE: Change = {"gain": None, "low": None, "high": None}


class Comparison:
    """Every gain is computed from the same draws of rows and seeds.

    metrics: by task. rows: ids of the rows that are drawn from; two studies of the same rows and seeds have the same
    draws. draws: by cell and task, (1 + R,) values of the metric, the first as observed.
    """

    def __init__(self, study: Study, resamples: int = RESAMPLES) -> None:
        self.study = study
        scores = {(cell, seed): study.scores(cell, seed) for cell in study.cells for seed in study.seeds}
        self.metrics = {task: _metric(task, study, scores) for task in study.tasks}
        named = [one.counts.get(metric) for one in scores.values() for metric in self.metrics.values()]
        self.rows = sorted({row for counts in named if counts for row in counts.ids})
        index = {row: position for position, row in enumerate(self.rows)}
        keys = [(cell, task) for cell in study.cells for task in cell]
        counts = {
            (cell, task): np.stack([_dense(scores[cell, seed], self.metrics[task], index) for seed in study.seeds])
            for cell, task in keys
        }
        values = {(cell, task): METRICS[self.metrics[task]].value for cell, task in keys}
        self.draws = pigeonhole_bootstrap(counts, values, resamples)

    def alone(self, *tasks: str) -> Tasks:
        """The smallest cell with these tasks."""
        return closed(frozenset(tasks), self.study.needs)

    def relative(self, cell: Tasks, base: Tasks, task: str) -> np.ndarray | None:
        """Draws of the gain of `task` in `cell` over `base`; None if they are one cell, or one was not trained."""
        if cell == base or (cell, task) not in self.draws or (base, task) not in self.draws:
            return None
        return self.over(self.draws[cell, task], base, task)

    def over(self, draws: np.ndarray, base: Tasks, task: str) -> np.ndarray:
        """Draws of the gain of `draws` of the task's metric over the cell `base`."""
        return relative_gain(draws, self.draws[base, task], METRICS[self.metrics[task]].better)

    def gain(self, cell: Tasks, task: str) -> np.ndarray | None:
        """Draws of the gain over the single-task model: zero for that model itself; None if it was not trained."""
        if cell == self.alone(task):
            return np.zeros_like(self.draws[cell, task])
        return self.relative(cell, self.alone(task), task)

    def change(self, i: str, j: str) -> np.ndarray | None:
        """Effect of training with i on j. Tasks that i needs are trained on both sides, so they cancel out."""
        if i == j:
            return None
        return self.relative(self.alone(i, j), self.alone(j, *self.study.needs[i]), j)

    def left_out(self, i: str, j: str) -> np.ndarray | None:
        """Effect of i on j in the joint model: the joint model over the one without i."""
        without = closed(self.study.joint - {i}, self.study.needs)
        return None if i == j else self.relative(self.study.joint, without, j)

    def estimated(self, cell: Tasks, task: str) -> np.ndarray | None:
        """The gain as measured, else the mean over its pairs (Standley et al. 2020); None without them."""
        measured = self.gain(cell, task)
        if measured is not None or cell in self.study.cells:
            return measured
        parts = [self.change(other, task) for other in cell - self.alone(task)]
        usable = [part for part in parts if part is not None]
        return np.mean(usable, axis=0) if parts and len(usable) == len(parts) else None


def _metric(task: str, study: Study, scores: Mapping[tuple[Tasks, int], Scores]) -> str:
    with_task = [one for (cell, _), one in scores.items() if task in cell]
    for name in METRICS:
        if name.split("/")[0] == task and all(name in one.counts for one in with_task):
            return name
    raise StudyError(
        f"no {study.split} row has a score for the task {task!r}; remove tasks.{task}, or add labelled rows"
    )


def _dense(scores: Scores, metric: str, index: Mapping[str, int]) -> np.ndarray:
    """(N, C) counts over all rows, zeros where a row is not labelled."""
    rows = scores.counts[metric]
    counts = np.asarray(rows.counts, dtype=np.float64)
    dense = np.zeros((len(index), counts.shape[1]))
    dense[[index[row] for row in rows.ids]] = counts
    return dense


def change_of(draws: np.ndarray | None, name: str = "gain") -> Change | None:
    """Draws (1 + R,) as plain data: {name, low, high}."""
    if draws is None:
        return None
    interval = estimate(draws)
    return {name: rounded(interval.value), "low": rounded(interval.low), "high": rounded(interval.high)}


def rounded(value: float) -> float | None:
    """To four digits; None where it is not finite."""
    return round(float(value), 4) if math.isfinite(value) else None
