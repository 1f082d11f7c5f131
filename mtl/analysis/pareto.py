"""Pareto front of trials, its hypervolume and its knee.

    front = nondominated(costs)                    # costs (N, K): N trials, K tasks, lower is better
    hypervolume(costs, reference)                  # volume that they dominate below the reference point
    knee(costs)                                    # row of the best compromise

A cost is an error in percent: `cost_of` turns a metric into one. A row with a cost that is not finite is on no front.

Hypervolume (Zitzler and Thiele 1999) is exact in any number of objectives (moocore, Fonseca et al. 2006). The knee is
that of Das 1999: each cost is scaled to z in [0, 1] between the ideal and the nadir point of the front, and the knee is
the point farthest below the plane through the extremes, which are the best trials of each task. Because these may not
span a plane (a trial may be the best of two tasks), the plane is sum of z = constant through their mean. With two tasks
it is the line through the two extremes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

WORST = 100.0  # percent; costs are clipped to it, because insertions can make error rates higher
_FLAT = 1e-9  # rounding error of a distance to the plane


def cost_of(value: float, better: Literal["lower", "higher"]) -> float:
    """A metric in percent as an error in percent, at most WORST; NaN stays NaN."""
    return min(value if better == "lower" else 100.0 - value, WORST) if math.isfinite(value) else math.nan


def nondominated(costs: np.ndarray) -> np.ndarray:
    """(N,) bool: rows of costs (N, K) that no other row dominates. Equal rows are all kept."""
    import moocore

    costs = _matrix(costs)
    front = np.isfinite(costs).all(axis=1)
    if front.any():
        front[front] = moocore.is_nondominated(costs[front], keep_weakly=True)
    return front


def hypervolume(costs: np.ndarray, reference: Sequence[float] | np.ndarray) -> float:
    """Volume between costs (N, K) and the reference point (K,); 0 if no row is below it in every objective.

    Raises:
        ValueError: the reference point has another number of objectives, or is not finite.
    """
    import moocore

    costs, point = _matrix(costs), _reference(costs, reference)
    below = costs[(costs < point).all(axis=1) & np.isfinite(costs).all(axis=1)]
    return float(moocore.hypervolume(below, ref=point)) if len(below) else 0.0


def hypervolumes(costs: np.ndarray, reference: Sequence[float] | np.ndarray) -> np.ndarray:
    """(N,) hypervolume of the first 1, 2, … N rows."""
    return np.array([hypervolume(costs[:count], reference) for count in range(1, len(costs) + 1)])


@dataclass(frozen=True)
class Bounds:
    """Bounds of a front, (K,) each. ideal: lowest cost of each task; nadir: highest cost on the front."""

    ideal: np.ndarray
    nadir: np.ndarray

    def scaled(self, costs: np.ndarray) -> np.ndarray:
        """Costs (N, K) as z: 0 at the ideal, 1 at the nadir; 0 for a task that is constant on the front."""
        span = self.nadir - self.ideal
        return np.divide(costs - self.ideal, span, out=np.zeros_like(costs, dtype=float), where=span > 0)


def bounds(costs: np.ndarray) -> Bounds | None:
    """Ideal and nadir of the front of costs (N, K); None without a front."""
    front = _matrix(costs)[nondominated(costs)]
    return Bounds(front.min(axis=0), front.max(axis=0)) if len(front) else None


def below_plane(costs: np.ndarray) -> np.ndarray:
    """(N,) distance of each front row below the plane of the extremes, in scaled units; NaN for rows off the front.

    Tasks that are constant on the front are ignored. The extreme of a task is the best trial nearest to the ideal.
    """
    costs = _matrix(costs)
    distance, front = np.full(len(costs), np.nan), nondominated(costs)
    limits = bounds(costs)
    if limits is None:
        return distance
    scaled = limits.scaled(costs[front])[:, limits.nadir > limits.ideal]  # (M, K') with K' tasks that differ
    sums = scaled.sum(axis=1)
    extremes = [sums[scaled[:, task] == 0].min() for task in range(scaled.shape[1])]
    distance[front] = (np.mean(extremes) - sums) / math.sqrt(len(extremes)) if extremes else 0.0
    return distance


def knee(costs: np.ndarray) -> int | None:
    """Row of costs (N, K) at the knee, the first of ties. A front of one point is its own knee.

    None if no point lies below the plane: the front is flat, bulges away from the ideal, or has only two trials.
    """
    distance = below_plane(costs)
    on_front = np.flatnonzero(~np.isnan(distance))
    if not len(on_front):
        return None
    best = int(on_front[np.argmax(distance[on_front])])
    alone = (_matrix(costs)[on_front] == _matrix(costs)[best]).all()
    return best if alone or distance[best] > _FLAT else None


def _matrix(costs: np.ndarray) -> np.ndarray:
    matrix = np.asarray(costs, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.shape[1]:
        raise ValueError(f"costs have the shape {matrix.shape}, expected (trials, objectives)")
    return matrix


def _reference(costs: np.ndarray, reference: Sequence[float] | np.ndarray) -> np.ndarray:
    point = np.asarray(reference, dtype=np.float64)
    if point.shape != (costs.shape[1],) or not np.isfinite(point).all():
        raise ValueError(f"the reference point is {point.tolist()}, expected {costs.shape[1]} finite costs")
    return point
