"""Bootstrap intervals of metrics from counts per row: for one model, a pair of models, or several seeds.

    low, high = bootstrap_interval(METRICS["transcript/wer"].value, counts)              # counts (N, C)
    paired_bootstrap(candidate, champion, METRICS["transcript/wer"], 0.05, 1000).gain    # test of the gates
    draws = pigeonhole_bootstrap({"joint": a, "single": b}, values)                     # counts (seeds, N, C)

Rows are resampled with replacement, and both models of a pair are scored on each resample (Efron and Tibshirani 1993,
ch. 13 and 16; for WER: Bisani and Ney 2004). Rows with equal counts are exchangeable, so only the frequency of each
distinct row (pattern) is drawn, from a multinomial distribution (`resample_weights`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 0.95
WEIGHTS_AT_ONCE = 4_000_000  # of a chunk of resamples: 32 MB
Key = TypeVar("Key", bound=Hashable)
Value = Callable[[np.ndarray], np.ndarray]  # summed counts (..., C) -> (...)


class GateError(ValueError):
    """Scores that cannot be compared."""


class Metric(Protocol):
    """Metric that a gate compares."""

    @property
    def better(self) -> str:
        """'lower' or 'higher'."""

    def value(self, counts: np.ndarray) -> Any:
        """Counts summed over rows (..., C) -> percent (...), NaN for a zero denominator."""


@dataclass(frozen=True)
class Interval:
    """Gain of the candidate in points of percent (positive: better), one-sided bounds, permutation p."""

    gain: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Estimate:
    """An observed value with its two-sided bootstrap interval; NaN if undefined."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 if the interval excludes zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def resample_weights(times: np.ndarray, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Frequency of each pattern in each resample, in chunks (R, P); times (P,): its frequency in the sample."""
    size = max(1, min(resamples, WEIGHTS_AT_ONCE // len(times)))
    for start in range(0, resamples, size):
        count = min(size, resamples - start)
        yield rng.multinomial(times.sum(), times / times.sum(), size=count).astype(np.float64)


def bootstrap_interval(
    value: Value,
    counts: np.ndarray,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Two-sided interval, over rows of counts (N, C), of a value of their sums."""
    patterns, times = np.unique(counts, axis=0, return_counts=True)
    chunks = resample_weights(times, resamples, np.random.default_rng(seed))
    return _bounds(np.concatenate([value(weights @ patterns) for weights in chunks]), (1 - confidence) / 2)


def enough(resamples: int, alpha: float) -> int:
    """Number of resamples with at least 20 beyond the bound, below which a quantile is noise."""
    return max(resamples, math.ceil(20 / alpha))


def paired_bootstrap(
    candidate: np.ndarray, champion: np.ndarray, metric: Metric, alpha: float, resamples: int, seed: int = 0
) -> Interval:
    """Interval and p of the gain, from both models' counts (N, C) on the same N rows in the same order.

    p is that of the permutation test that swaps the models' counts row by row; with three different rows it is at
    least 1/8.
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
        """Gains of R resamples: weights (R, P) count each pattern, of which `swapped` (R, P) are swapped."""
        unswapped = weights - swapped
        mine = metric.value(unswapped @ ours + (weights - unswapped) @ theirs)
        return sign * (mine - metric.value(unswapped @ theirs + (weights - unswapped) @ ours))

    rng = np.random.default_rng(seed)
    observed = float(gain(times[None].astype(np.float64))[0])
    drawn, permuted = [], []
    for weights in resample_weights(times, resamples, rng):
        drawn.append(gain(weights))
        flips = rng.binomial(times, 0.5, size=weights.shape).astype(np.float64)
        permuted.append(gain(np.broadcast_to(times.astype(np.float64), flips.shape), flips))
    low, high = _bounds(np.concatenate(drawn), alpha)
    if math.isnan(low):
        low, high = -math.inf, math.inf
    at_least = np.concatenate(permuted) >= observed - 1e-9
    return Interval(observed, low, high, float((1 + at_least.sum()) / (1 + resamples)))


def pigeonhole_bootstrap(
    counts: Mapping[Key, np.ndarray], values: Mapping[Key, Value], resamples: int = RESAMPLES, seed: int = 0
) -> dict[Key, np.ndarray]:
    """Mean of each value over seeds, (1 + R,): observed, then in R resamples; NaN without a labelled item.

    counts (S, N, C): of S seeds on N rows, the same for every key, zeros for unlabelled rows. Seeds and rows are drawn
    independently with replacement (Owen 2007), the same for all keys, so differences between keys are paired. The
    spread over S seeds is underestimated by sqrt((S - 1) / S), as by any bootstrap.
    """
    seeds, rows, _ = next(iter(counts.values())).shape
    rng = np.random.default_rng(seed)
    picks = np.vstack([np.arange(seeds), rng.integers(0, seeds, (resamples, seeds))])
    draws: dict[Key, list[np.ndarray]] = {key: [] for key in counts}
    start = 0
    for weights in resample_weights(np.ones(rows, dtype=np.int64), 1 + resamples, rng):
        chosen = picks[start : start + len(weights)]
        if start == 0:
            weights[0] = 1.0
        start += len(weights)
        for key, table in counts.items():
            by_seed = np.stack([values[key](weights @ one) for one in table])  # (S, R)
            draws[key].append(by_seed[chosen, np.arange(len(chosen))[:, None]].mean(axis=1))
    return {key: np.concatenate(parts) for key, parts in draws.items()}


def estimate(draws: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """From draws (1 + R,); NaN if the observed value or every resample is."""
    if not math.isfinite(draws[0]):
        return Estimate(math.nan, math.nan, math.nan)
    low, high = _bounds(draws[1:], (1 - confidence) / 2)
    return Estimate(math.nan if math.isnan(low) else float(draws[0]), low, high)


def _bounds(values: np.ndarray, tail: float) -> tuple[float, float]:
    """Quantiles `tail` and 1 - `tail` of the resamples that are not NaN."""
    usable = values[~np.isnan(values)]
    if not len(usable):
        return math.nan, math.nan
    low, high = np.quantile(usable, [tail, 1 - tail])
    return float(low), float(high)
