"""Trials that trade one task for another: the Pareto front, what it is worth, and its knee.

    front = nondominated(costs)                    # costs (N, K): N trials, K tasks, lower is better
    hypervolume(costs, reference)                  # what the trials dominate of the box below the reference point
    knee(costs)                                    # the trial where giving a little anywhere costs most elsewhere

A cost is an error in percent: `cost_of` turns a metric into one. A row with a cost that is not finite is on no front.

Hypervolume (Zitzler and Thiele 1999) is exact in any number of objectives: moocore, by the authors of the reference
implementation (Fonseca et al. 2006). The knee is that of Das 1999 ("On characterizing the 'knee' of the Pareto curve"):
every cost is scaled to z in [0, 1] between the front's ideal and its nadir point, and the knee is the point farthest
below the plane through the extremes, which are the best trial of each task. Among trials these rarely span a plane of
their own (one may be the best of two tasks), so the plane is the one through their mean that favours no task: sum of
z = constant. With two tasks that is the line through the two extremes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

WORST = 100.0  # percent: every answer wrong. An error rate may pass it (inserted words), a cost does not
_FLAT = 1e-9  # a distance to the plane that is rounding


def cost_of(value: float, better: Literal["lower", "higher"]) -> float:
    """A metric in percent as an error in percent, at most WORST; NaN stays NaN."""
    return min(value if better == "lower" else 100.0 - value, WORST) if math.isfinite(value) else math.nan


def nondominated(costs: np.ndarray) -> np.ndarray:
    """(N,) bool: rows of costs (N, K) that no other row beats: nowhere worse and somewhere better. Twins both stay."""
    import moocore

    costs = _matrix(costs)
    found = np.isfinite(costs).all(axis=1)
    if found.any():
        found[found] = moocore.is_nondominated(costs[found], keep_weakly=True)
    return found


def hypervolume(costs: np.ndarray, reference: Sequence[float] | np.ndarray) -> float:
    """Volume between costs (N, K) and the reference point (K,): 0 where no row is below it in every objective.

    Raises:
        ValueError: the reference point has another number of objectives, or is not finite.
    """
    import moocore

    costs, point = _matrix(costs), _reference(costs, reference)
    below = costs[(costs < point).all(axis=1) & np.isfinite(costs).all(axis=1)]
    return float(moocore.hypervolume(below, ref=point)) if len(below) else 0.0


def hypervolumes(costs: np.ndarray, reference: Sequence[float] | np.ndarray) -> np.ndarray:
    """(N,) hypervolume of the first 1, 2, … N rows: what each further trial brought. Never falls."""
    return np.array([hypervolume(costs[:count], reference) for count in range(1, len(costs) + 1)])


@dataclass(frozen=True)
class Bounds:
    """Of a front, (K,) each. ideal: the least cost of each task; nadir: the most that a point of the front has."""

    ideal: np.ndarray
    nadir: np.ndarray

    def scaled(self, costs: np.ndarray) -> np.ndarray:
        """Costs (N, K) as z: 0 at the ideal, 1 at the nadir; 0 for a task in which the front does not differ."""
        span = self.nadir - self.ideal
        return np.divide(costs - self.ideal, span, out=np.zeros_like(costs, dtype=float), where=span > 0)


def bounds(costs: np.ndarray) -> Bounds | None:
    """Ideal and nadir of the front of costs (N, K); None without a front."""
    front = _matrix(costs)[nondominated(costs)]
    return Bounds(front.min(axis=0), front.max(axis=0)) if len(front) else None


def below_plane(costs: np.ndarray) -> np.ndarray:
    """(N,) distance of each front row below the plane of the extremes, in scaled units; NaN for rows off the front.

    Tasks in which the front does not differ do not count; of a task's equally good trials the nearest to the ideal is
    its extreme.
    """
    costs = _matrix(costs)
    found, front = np.full(len(costs), np.nan), nondominated(costs)
    limits = bounds(costs)
    if limits is None:
        return found
    scaled = limits.scaled(costs[front])[:, limits.nadir > limits.ideal]  # (M, K') with K' tasks that differ
    sums = scaled.sum(axis=1)
    extremes = [sums[scaled[:, task] == 0].min() for task in range(scaled.shape[1])]
    found[front] = (np.mean(extremes) - sums) / math.sqrt(len(extremes)) if extremes else 0.0
    return found


def knee(costs: np.ndarray) -> int | None:
    """Row of costs (N, K) at the knee; of equals the first. A front of one point is its own knee.

    None where no point lies below the plane: the front is flat, bulges away from the ideal, or has two trials alone,
    so that none is a better bargain than the others.
    """
    distance = below_plane(costs)
    on_front = np.flatnonzero(~np.isnan(distance))
    if not len(on_front):
        return None
    best = int(on_front[np.argmax(distance[on_front])])
    alone = (_matrix(costs)[on_front] == _matrix(costs)[best]).all()
    return best if alone or distance[best] > _FLAT else None


def _matrix(costs: np.ndarray) -> np.ndarray:
    found = np.asarray(costs, dtype=np.float64)
    if found.ndim != 2 or not found.shape[1]:
        raise ValueError(f"costs have the shape {found.shape}, expected (trials, objectives)")
    return found


def _reference(costs: np.ndarray, reference: Sequence[float] | np.ndarray) -> np.ndarray:
    point = np.asarray(reference, dtype=np.float64)
    if point.shape != (costs.shape[1],) or not np.isfinite(point).all():
        raise ValueError(f"the reference point is {point.tolist()}, expected {costs.shape[1]} finite costs")
    return point
