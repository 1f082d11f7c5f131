"""May the candidate replace the champion? A paired bootstrap over the same frozen test rows, and the rules around it.

    decision = decide(candidate, champion, recipe.gates, METRICS)
    print(decision.promote, decision.reason)

The rule. A candidate is promoted when
  1. its primary metric is significantly better, or it is shown to be not worse while the model is at least 5 % smaller;
  2. no metric is worse than the champion's by more than its tolerance;
  3. no absolute `minimum` is missed.
Without a champion the minimums alone decide.

The statistics. Both models have answered the same rows, so rows are resampled and both models are scored on
each resample (Efron and Tibshirani 1993, ch. 13 and 16; for WER: Bisani and Ney 2004). `low` and `high` are one-sided
bounds of the gain at the gate's confidence. "Significantly better" asks for two things: the lower bound
is above zero, and the paired permutation test (swap the models' answers row by row) gives p <= alpha. The second
is exact at any size: three rows that differ can give no p below 1/8, whatever the bootstrap says about them.

Many comparisons. Rule 2 asks that every guard passes, so it needs no correction: more metrics make a false
promotion rarer, not likelier. Only the primary can earn a promotion, so it is one test and not K. But the same champion
on the same rows is challenged night after night: on the primary, the n-th challenge is tested at alpha / n (`looks`).

Small test sets. A guard looks at the estimate: a test set too small to tell 0.5 points from nothing can block a
candidate, and then the champion that is known stays. A guard that passes without its interval passing says so
("inconclusive"), and below 30 rows nothing counts as shown. Rows are resampled as if they were independent;
those of one speaker are not quite, so intervals over few speakers are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

TOLERANCE = 0.5  # points of percent, where neither the recipe nor the metric gives one
SMALLER = 0.95  # "lower cost": at most this share of the champion's parameters; new words alone move a few
MIN_ROWS = 30  # below this, a bootstrap interval shows nothing
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


class Settings(Protocol):
    """The recipe's `gates` section."""

    @property
    def primary(self) -> str: ...
    @property
    def tolerance(self) -> dict[str, float]: ...
    @property
    def minimum(self) -> dict[str, float]: ...
    @property
    def confidence(self) -> float: ...
    @property
    def resamples(self) -> int: ...


@dataclass(frozen=True)
class RowCounts:
    """One metric of one model on its labelled rows: ids (N,), counts (N, C)."""

    ids: Sequence[str]
    counts: np.ndarray


@dataclass(frozen=True)
class Contender:
    """A scored model: counts per metric, and what it costs."""

    name: str
    counts: Mapping[str, RowCounts]
    parameters: int


@dataclass(frozen=True)
class Interval:
    """Gain of the candidate in points of percent (positive: better), one-sided bounds, permutation p."""

    gain: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """One metric of the decision. Values and gains in the metric's unit; None where there is nothing to compare.

    verdict: better (significantly), not_worse (shown), inconclusive (within tolerance, not shown), worse,
    missing (the candidate no longer has it), new (the champion does not have it), or first (no champion).
    """

    metric: str
    better: str
    candidate: float | None
    champion: float | None
    rows: int
    unpaired: int
    gain: float | None
    low: float | None
    high: float | None
    p: float | None
    tolerance: float
    minimum: float | None
    minimum_met: bool
    verdict: str
    unit: str = "%"


@dataclass(frozen=True)
class Decision:
    """Every number that a promotion rests on; `to_json` is what the ledger keeps."""

    promote: bool
    reason: str
    candidate: str
    champion: str | None
    primary: str
    confidence: float
    alpha: float
    looks: int
    resamples: int
    seed: int
    candidate_parameters: int
    champion_parameters: int | None
    comparisons: tuple[Comparison, ...]
    objections: tuple[str, ...]
    caveats: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Decision:
        lists = {key: tuple(content[key]) for key in ("objections", "caveats")}
        comparisons = tuple(Comparison(**row) for row in content["comparisons"])
        return cls(**{**content, **lists, "comparisons": comparisons})


def decide(
    candidate: Contender,
    champion: Contender | None,
    gates: Settings,
    metrics: Mapping[str, Metric],
    looks: int = 1,
    seed: int = 0,
) -> Decision:
    """Applies the rule above.

    looks: which challenge of this champion on these rows this is, from 1.

    Raises:
        GateError: the candidate was not scored on the primary metric or one with a minimum, or a metric is unknown.
    """
    _check(candidate, gates, metrics)
    alpha = (1 - gates.confidence) / max(1, looks)
    names = [name for name in metrics if name in candidate.counts or (champion and name in champion.counts)]
    comparisons = tuple(
        _compare(
            name,
            metrics[name],
            candidate,
            champion,
            gates,
            alpha if name == gates.primary else 1 - gates.confidence,
            seed,
        )
        for name in names
    )
    by_name = {comparison.metric: comparison for comparison in comparisons}
    objections = _objections(comparisons)
    merit, reason = _merit(by_name[gates.primary], candidate, champion)
    promote = merit and not objections
    return Decision(
        promote=promote,
        reason=reason if promote or not merit else f"{reason}, but {objections[0]}",
        candidate=candidate.name,
        champion=champion.name if champion else None,
        primary=gates.primary,
        confidence=gates.confidence,
        alpha=alpha,
        looks=looks,
        resamples=enough(gates.resamples, alpha),
        seed=seed,
        candidate_parameters=candidate.parameters,
        champion_parameters=champion.parameters if champion else None,
        comparisons=comparisons,
        objections=objections,
        caveats=_caveats(comparisons),
    )


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
        kept = weights - swapped
        mine = metric.value(kept @ ours + (weights - kept) @ theirs)
        return sign * (mine - metric.value(kept @ theirs + (weights - kept) @ ours))

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


def _compare(
    name: str,
    metric: Metric,
    candidate: Contender,
    champion: Contender | None,
    gates: Settings,
    alpha: float,
    seed: int,
) -> Comparison:
    mine = candidate.counts.get(name)
    theirs = champion.counts.get(name) if champion else None
    value = _overall(metric, mine)
    minimum = gates.minimum.get(name)
    tolerance = gates.tolerance.get(name, getattr(metric, "tolerance", TOLERANCE))
    interval, rows, unpaired = None, len(mine.ids) if mine else 0, 0
    verdict = "first" if champion is None else "new" if mine else "missing"
    if mine and theirs:
        ours, others = _pair(mine, theirs)
        rows, unpaired = len(ours), len(mine.ids) + len(theirs.ids) - 2 * len(ours)
        if rows:
            interval = paired_bootstrap(ours, others, metric, alpha, enough(gates.resamples, alpha), seed)
        verdict = _verdict(interval, rows, tolerance, alpha) if interval else "worse"
    return Comparison(
        metric=name,
        better=metric.better,
        candidate=value,
        champion=_overall(metric, theirs),
        rows=rows,
        unpaired=unpaired,
        gain=_finite(interval.gain) if interval else None,
        low=_finite(interval.low) if interval else None,
        high=_finite(interval.high) if interval else None,
        p=interval.p if interval else None,
        tolerance=tolerance,
        minimum=minimum,
        minimum_met=minimum is None or _meets(value, minimum, metric.better),
        verdict=verdict,
        unit=getattr(metric, "unit", "%"),
    )


def _verdict(interval: Interval, rows: int, tolerance: float, alpha: float) -> str:
    # `not >=` and not `<`: a gain that is not a number is no reason to let a model through.
    if not interval.gain >= -tolerance:
        return "worse"
    if interval.low > 0 and interval.p <= alpha:
        return "better"
    return "not_worse" if rows >= MIN_ROWS and interval.low >= -tolerance else "inconclusive"


def _merit(primary: Comparison, candidate: Contender, champion: Contender | None) -> tuple[bool, str]:
    """Whether the candidate has earned promotion, guards apart, and the sentence that says why."""
    if champion is None:
        return True, "first model: no champion to compare with, the minimums decide"
    if primary.verdict == "new":
        return (
            False,
            f"{primary.metric}: {champion.name} was not scored on it, so nothing shows {candidate.name} better",
        )
    if primary.gain is None:
        return False, f"{primary.metric}: no row was scored by both models, so nothing can be shown"
    told = (
        f"{primary.metric} {_shown(primary, primary.champion)} -> {_shown(primary, primary.candidate)}, "
        f"gain {primary.gain:+.2f} (at least {_number(primary.low)}, p {primary.p:.2g}, {primary.rows} rows)"
    )
    if primary.verdict == "better":
        return True, f"significantly better: {told}"
    if candidate.parameters <= SMALLER * champion.parameters and primary.verdict == "not_worse":
        return True, f"not worse with {candidate.parameters:,} parameters instead of {champion.parameters:,}: {told}"
    return False, f"not significantly better: {told}"


def _objections(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    found = []
    for row in comparisons:
        if not row.minimum_met:
            bound = "at most" if row.better == "lower" else "at least"
            found.append(f"{row.metric} is {_shown(row, row.candidate)}, expected {bound} {row.minimum:g} {row.unit}")
        if row.verdict == "missing":
            found.append(f"{row.metric} is missing: the champion has it at {_shown(row, row.champion)}")
        if row.verdict == "worse" and row.gain is None:
            found.append(f"{row.metric} has no row that both models were scored on")
        elif row.verdict == "worse" and row.gain is not None:
            found.append(f"{row.metric} is worse by {abs(row.gain):.2f} points, tolerance {row.tolerance:g}")
    return tuple(found)


def _caveats(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    found = []
    for row in comparisons:
        if row.verdict == "inconclusive":
            found.append(
                f"{row.metric}: within its tolerance of {row.tolerance:g}, but {row.rows} rows cannot rule out "
                f"{_number(row.low)} points"
            )
        if row.unpaired:
            found.append(f"{row.metric}: {row.unpaired} rows were scored by one model alone and are not compared")
    return tuple(found)


def _pair(mine: RowCounts, theirs: RowCounts) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the rows that both have, in the candidate's order."""
    place = {row: position for position, row in enumerate(theirs.ids)}
    both = [(position, place[row]) for position, row in enumerate(mine.ids) if row in place]
    left, right = [pair[0] for pair in both], [pair[1] for pair in both]
    return np.asarray(mine.counts)[left], np.asarray(theirs.counts)[right]


def _overall(metric: Metric, rows: RowCounts | None) -> float | None:
    return _finite(float(metric.value(np.asarray(rows.counts).sum(axis=0)))) if rows and len(rows.ids) else None


def _meets(value: float | None, minimum: float, better: str) -> bool:
    if value is None:
        return False
    return value <= minimum if better == "lower" else value >= minimum


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(row: Comparison, value: float | None) -> str:
    """A model's figure with its unit."""
    return f"{_number(value)} {row.unit}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _check(candidate: Contender, gates: Settings, metrics: Mapping[str, Metric]) -> None:
    for name in (gates.primary, *gates.tolerance, *gates.minimum):
        if name not in metrics:
            raise GateError(f"the gates name the metric {name!r}; there are {', '.join(sorted(metrics))}")
    for name in (gates.primary, *gates.minimum):
        if name not in candidate.counts or not len(candidate.counts[name].ids):
            raise GateError(
                f"{candidate.name} has no scored rows for {name}: the test split has no such labels, "
                "or the model lacks the task; change gates.primary / gates.minimum or the corpora"
            )
