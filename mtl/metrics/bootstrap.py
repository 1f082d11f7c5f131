"""A paired bootstrap of two models over the same rows, and the exact permutation test beside it.

    interval = paired_bootstrap(candidate, champion, METRICS["transcript/wer"], alpha=0.05, resamples=1000)
    interval.gain, interval.low, interval.p

Rows are resampled and both models are scored on each resample (Efron and Tibshirani 1993, ch. 13 and 16; for WER:
Bisani and Ney 2004). The permutation test swaps the models' counts row by row: three rows that differ can give no p
below 1/8, whatever the bootstrap says about them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

_DRAWS = 4_000_000  # numbers drawn at once; bounds memory at some 30 MB


class GateError(ValueError):
    """Scores that cannot be compared; the message says which metric and what is missing."""


class Metric(Protocol):
    """What a gate needs to know of a metric."""

    @property
    def better(self) -> str:
        """'lower' or 'higher'."""

    def value(self, counts: np.ndarray) -> Any:
        """Counts summed over rows (..., C) -> percent (...), nan where there is nothing to divide by."""


@dataclass(frozen=True)
class Interval:
    """Gain of the candidate in points of percent (positive: better), one-sided bounds, permutation p."""

    gain: float
    low: float
    high: float
    p: float


def enough(resamples: int, alpha: float) -> int:
    """At least 20 resamples beyond the bound: a quantile of fewer is noise."""
    return max(resamples, math.ceil(20 / alpha))


def paired_bootstrap(
    candidate: np.ndarray, champion: np.ndarray, metric: Metric, alpha: float, resamples: int, seed: int = 0
) -> Interval:
    """Interval and p of the gain, from both models' counts (N, C) on the same N rows in the same order.

    Rows with equal counts are exchangeable, so what is resampled is how often each distinct row occurs:
    the same distribution as drawing N rows, and a few patterns instead of thousands of rows.
    """
    if candidate.shape != champion.shape or candidate.ndim != 2 or not len(candidate):
        raise GateError(
            f"paired_bootstrap needs two (N, C) arrays of equal shape, got {candidate.shape}, {champion.shape}"
        )
    width = candidate.shape[1]
    patterns, times = np.unique(np.hstack([candidate, champion]).astype(np.float64), axis=0, return_counts=True)
    ours, theirs = patterns[:, :width], patterns[:, width:]
    sign = 1.0 if metric.better == "higher" else -1.0

    def gain(weights: np.ndarray, swapped: np.ndarray | float = 0.0) -> np.ndarray:
        """Gains of R resamples: weights (R, P) count each pattern, `swapped` (R, P) of them change sides."""
        unswapped = weights - swapped
        mine = metric.value(unswapped @ ours + (weights - unswapped) @ theirs)
        return sign * (mine - metric.value(unswapped @ theirs + (weights - unswapped) @ ours))

    rng = np.random.default_rng(seed)
    observed = float(gain(times[None].astype(np.float64))[0])
    drawn, swaps = [], []
    for size in _chunks(resamples, len(patterns)):
        drawn.append(gain(rng.multinomial(len(candidate), times / times.sum(), size=size).astype(np.float64)))
        flips = rng.binomial(times, 0.5, size=(size, len(times))).astype(np.float64)
        swaps.append(gain(np.broadcast_to(times.astype(np.float64), flips.shape), flips))
    # A resample may hold none of the few labelled items that a metric counts; it says nothing and is left out.
    gains = np.concatenate(drawn)
    low, high = np.nanquantile(gains, [alpha, 1 - alpha]) if np.isfinite(gains).any() else (-np.inf, np.inf)
    at_least = np.concatenate(swaps) >= observed - 1e-9
    return Interval(observed, float(low), float(high), float((1 + at_least.sum()) / (1 + resamples)))


def _chunks(resamples: int, patterns: int) -> list[int]:
    size = max(1, min(resamples, _DRAWS // patterns))
    return [min(size, resamples - start) for start in range(0, resamples, size)]
