"""Objective of a search, by which trials are stopped and ranked, and the error of each task.

    scalar = Scalar.gain({"transcript/wer": 18.5, "intent/accuracy": 96.0})    # single-task scores
    scalar({"valid/transcript/wer": 17.6, "valid/intent/accuracy": 97.2})      # +3.0: mean of +4.9 and +1.3
    scalar.words                                                               # a description

`gain` is delta_m (Maninis et al. 2019; mtl/analysis/transfer.py): the mean over tasks of the change relative to the
single-task score, positive for better. `mean` is the mean error in percent, lower is better. Neither depends on the
task weights that are searched. A task without a score counts as all answers wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from mtl.analysis.pareto import WORST, cost_of
from mtl.analysis.transfer import relative_gain
from mtl.metrics.scoring import METRICS

COST = "cost/"  # prefix of a task's error in percent in the reports of a trial


def value_of(metric: str, metrics: Mapping[str, float]) -> float:
    """A metric's value on valid, in percent, error rates clipped at WORST; NaN if missing."""
    value = metrics.get(f"valid/{metric}", math.nan)
    return min(value, WORST) if METRICS[metric].better == "lower" else value


def metric_of(task: str, metrics: Mapping[str, float]) -> str | None:
    """A task's first metric in the order of METRICS (WER before CER, from audio before from text) that has a value."""
    named = (name for name in METRICS if name.split("/")[0] == task)
    return next((name for name in named if math.isfinite(value_of(name, metrics))), None)


def costs(metrics: Mapping[str, float], tasks: Sequence[str]) -> dict[str, float]:
    """Each task's error in percent by its first metric, WORST if it has none."""
    errors = {}
    for task in tasks:
        metric = metric_of(task, metrics)
        errors[task] = WORST if metric is None else cost_of(value_of(metric, metrics), METRICS[metric].better)
    return errors


@dataclass(frozen=True)
class Scalar:
    """Computes the objective from the metrics of a trial.

    kind: see above. base: single-task scores by metric, one per task, none of them zero; empty for `mean`.
    left_out: reason by task that does not count. budget: of the single-task models, as text.
    """

    kind: Literal["gain", "mean"]
    base: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    budget: str = ""

    @classmethod
    def gain(cls, single: Mapping[str, float], left_out: Mapping[str, str] | None = None, budget: str = "") -> Scalar:
        """Relative to these scores; the mean error if all of them are zero."""
        zero = {metric.split("/")[0]: f"its single-task {metric} is 0" for metric in single if not single[metric]}
        reasons = {**(left_out or {}), **zero}
        base = {metric: value for metric, value in single.items() if value}
        return cls("gain", base, reasons, budget) if base else cls("mean", {}, reasons)

    @property
    def mode(self) -> Literal["max", "min"]:
        return "max" if self.kind == "gain" else "min"

    @property
    def label(self) -> str:
        """Heading of a column."""
        return "mean gain, %" if self.kind == "gain" else "mean error, %"

    @property
    def worst(self) -> float:
        """Objective of a trial with all answers wrong, or whose loss was not finite."""
        return self({f"valid/{metric}": _wrong(metric) for metric in self.base}) if self.base else WORST

    def __call__(self, metrics: Mapping[str, float]) -> float:
        """metrics: {"valid/<task>/<metric>": percent}."""
        if self.kind == "gain":
            return float(np.mean([self._gain(metric, value_of(metric, metrics)) for metric in self.base]))
        tasks = dict.fromkeys(name.split("/")[0] for name in METRICS)  # only validated tasks count
        errors = costs(metrics, [task for task in tasks if metric_of(task, metrics)])
        return sum(errors.values()) / len(errors) if errors else WORST

    def _gain(self, metric: str, value: float) -> float:
        value = value if math.isfinite(value) else _wrong(metric)
        return float(relative_gain(np.asarray(value), np.asarray(self.base[metric]), METRICS[metric].better))

    def key(self, row: Mapping[str, Any]) -> float:
        """Sorts leaderboard rows, the best first."""
        return -row["objective"] if self.mode == "max" else row["objective"]

    @property
    def words(self) -> str:
        """Description of the objective."""
        out = "".join(f"; without {task}: {why}" for task, why in self.left_out.items())
        if self.kind == "mean":
            return f"mean error over tasks on valid, in percent, each by its first metric: lower is better{out}"
        figures = ", ".join(f"{metric} {value:.2f}" for metric, value in self.base.items())
        budget = f" of the same budget ({self.budget})" if self.budget else " of the same budget"
        return (
            f"mean over tasks of the change relative to single-task models{budget}, in percent: higher is better. "
            f"They reach {figures}{out}"
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "words": self.words, "label": self.label}


def _wrong(metric: str) -> float:
    return WORST if METRICS[metric].better == "lower" else 0.0
