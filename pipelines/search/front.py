"""The Pareto front of a search, its hypervolume and its knee.

    front = front_of(leaderboard, tasks, reference={"intent": 60.0})
    front.trials, front.knee, front.hypervolume

Each task counts by its first metric on valid, as an error in percent (mtl/analysis/pareto.py). A trial that was stopped
early counts with its last report. Trials without a score for some task are left out, and named in the notes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mtl.analysis.pareto import WORST, cost_of, hypervolumes, knee, nondominated
from mtl.metrics.scoring import METRICS
from pipelines.search.scalar import metric_of, value_of


@dataclass(frozen=True)
class Front:
    """Pareto front of the trials, as plain data.

    metrics: by task. reference: the reference point, by task, in the metric's own unit.
    costs: errors in percent of every trial that has them all, by trial and task, in the order in which they ended.
    trials: those on the front, the best objective first. knee: one of them, or None.
    hypervolume: share, in percent, of the box between no errors and the reference point that the front dominates;
    history: the same after each trial of `costs`. notes: limits of the result.
    """

    metrics: dict[str, str]
    reference: dict[str, float]
    costs: dict[str, dict[str, float]]
    trials: list[str]
    knee: str | None
    hypervolume: float
    history: list[float]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def front_of(
    leaderboard: Sequence[Mapping[str, Any]], tasks: Sequence[str], reference: Mapping[str, float] | None = None
) -> Front:
    """The front of leaderboard rows (trial, state, metrics, ended; the best first); empty without comparable trials."""
    usable = [row for row in leaderboard if row["state"] != "failed"]
    named = {task: _commonest(task, usable) for task in tasks}
    metrics = {task: metric for task, metric in named.items() if metric}
    notes = [f"{task} is left out: no trial has a score for it on valid." for task in tasks if task not in metrics]
    point = {task: (reference or {}).get(task, _wrong(metric)) for task, metric in metrics.items()}
    complete = [row for row in usable if all(math.isfinite(_cost(row, metric)) for metric in metrics.values())]
    if missing := [str(row["trial"]) for row in usable if row not in complete]:
        notes.append(f"left out, without a figure for some task: {', '.join(missing)}.")
    ordered = sorted(complete, key=lambda row: (row["ended"], row["trial"])) if metrics else []
    costs = np.array([[_cost(row, metric) for metric in metrics.values()] for row in ordered])
    if not ordered:
        return Front(metrics, point, {}, [], None, 0.0, [], [*notes, "no trial can be placed on a front."])
    corner = np.array([cost_of(point[task], METRICS[metric].better) for task, metric in metrics.items()])
    history = 100 * hypervolumes(costs, corner) / corner.prod() if corner.all() else np.zeros(len(costs))
    on_front = {str(row["trial"]) for row, best in zip(ordered, nondominated(costs), strict=True) if best}
    bend = knee(costs)
    return Front(
        metrics=metrics,
        reference=point,
        costs={
            str(row["trial"]): dict(zip(metrics, map(float, line), strict=True))
            for row, line in zip(ordered, costs, strict=True)
        },
        trials=[str(row["trial"]) for row in leaderboard if row["trial"] in on_front],
        knee=None if bend is None else str(ordered[bend]["trial"]),
        hypervolume=float(history[-1]),
        history=[float(value) for value in history],
        notes=[*notes, *_notes(metrics, history[-1], bend, len(on_front))],
    )


def _commonest(task: str, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The metric of the task that most trials have."""
    names = [metric for row in rows if (metric := metric_of(task, row["metrics"]))]
    return max(names, key=names.count) if names else None


def _cost(row: Mapping[str, Any], metric: str) -> float:
    return cost_of(value_of(metric, row["metrics"]), METRICS[metric].better)


def _wrong(metric: str) -> float:
    return WORST if METRICS[metric].better == "lower" else 0.0


def _notes(metrics: Mapping[str, str], volume: float, bend: int | None, size: int) -> list[str]:
    notes = []
    if len(metrics) == 1:
        notes.append("one task alone: its front is its best trial.")
    if not volume:
        notes.append("no trial beats the reference point in every task, so the hypervolume is 0; see search.reference.")
    if bend is None:
        notes.append(f"no knee: none of the {size} trials on the front lies below the plane of its extremes.")
    return notes
