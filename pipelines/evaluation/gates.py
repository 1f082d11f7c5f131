"""The gate: decides by a paired bootstrap on the frozen test rows whether the candidate replaces the champion.

    decision = decide(candidate, champion, recipe.gates, METRICS, floor=floor_of(counts, rows))
    print(decision.promote, decision.reason)

A candidate is promoted if
  1. its primary metric is significantly better, or it is shown to be not worse while the model is at least 5 % smaller;
  2. no metric is worse than the champion's by more than its tolerance;
  3. it misses no absolute `minimum`.

The floor of a metric is the value of a model without knowledge on the same rows (mtl.metrics.floors). Without a
champion, the candidate is compared with the floor instead; so is a metric that the champion does not have. Of metrics
other than the primary, one that is not shown to be better than the floor is only a caveat.

`low` and `high` are one-sided bounds of the gain at the gate's confidence (mtl.metrics.bootstrap). "Significantly
better" requires a lower bound above zero and p <= alpha in the paired permutation test, which is exact at any size.

Multiple comparisons: rule 2 requires that every metric passes, so it needs no correction, and only the primary metric
can earn a promotion. But a champion is compared on the same rows every night, so the n-th comparison of the primary
metric is tested at alpha / n.

Small test sets: rule 2 uses the estimate, so that noise can block a candidate. A metric within its tolerance whose
interval is not is "inconclusive"; below 30 rows nothing counts as shown. Rows are resampled as if they were
independent; rows of one speaker are not, so intervals over few speakers are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mtl.metrics.bootstrap import GateError, Interval, Metric, enough, paired_bootstrap
from pipelines.recipe import Gates

TOLERANCE = 0.5  # points of percent, where neither the recipe nor the metric gives one
SMALLER = 0.95  # at most this share of the champion's parameters counts as smaller; new words alone change a few
MIN_ROWS = 30  # below this, a bootstrap interval shows nothing


@dataclass(frozen=True)
class RowCounts:
    """One metric of one model on its labelled rows: ids (N,), counts (N, C)."""

    ids: Sequence[str]
    counts: np.ndarray


@dataclass(frozen=True)
class ScoredModel:
    """A scored model: counts per metric, and what it costs."""

    name: str
    counts: Mapping[str, RowCounts]
    parameters: int


@dataclass(frozen=True)
class Comparison:
    """One metric of the decision. Values and gains are in the metric's unit; None if there is nothing to compare.

    verdict: better (significantly), not_worse (shown), inconclusive (within tolerance, not shown), worse, or missing
    (the candidate lacks it). Without a champion, or if it lacks the metric, gain and bounds are relative to the floor,
    and the verdict is better, at_floor (not shown to be better) or worse; `new` is a metric that the champion lacks and
    that is better than the floor. `first`: there was nothing to compare with.

    floor: value of a model without knowledge; floor_answer: the constant answer of that model. None in old decisions.
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
    floor: float | None = None
    floor_answer: str = ""


@dataclass(frozen=True)
class Decision:
    """All numbers of a decision; the ledger stores `to_json`."""

    promote: bool
    reason: str
    candidate: str
    champion: str | None
    primary: str
    confidence: float
    alpha: float
    n_comparisons: int  # of this champion (or the floor) on these rows, this one included
    resamples: int
    seed: int
    candidate_parameters: int
    champion_parameters: int | None
    comparisons: tuple[Comparison, ...]
    objections: tuple[str, ...]
    caveats: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        content = asdict(self)
        content["looks"] = content.pop("n_comparisons")  # the key in ledgers
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Decision:
        fields = {**content, **{key: tuple(content[key]) for key in ("objections", "caveats")}}
        fields["comparisons"] = tuple(Comparison(**row) for row in content["comparisons"])
        fields["n_comparisons"] = fields.pop("looks")
        return cls(**fields)


def decide(
    candidate: ScoredModel,
    champion: ScoredModel | None,
    gates: Gates,
    metrics: Mapping[str, Metric],
    n_comparisons: int = 1,
    seed: int = 0,
    floor: ScoredModel | None = None,
) -> Decision:
    """Applies the rule above.

    n_comparisons: with the same champion (or floor) on these rows, this one included.
    floor: a model without knowledge; a first model cannot be promoted without it.

    Raises:
        GateError: the candidate was not scored on the primary metric or one with a minimum, or a metric is unknown.
    """
    _check(candidate, gates, metrics)
    alpha = (1 - gates.confidence) / max(1, n_comparisons)
    names = [name for name in metrics if name in candidate.counts or (champion and name in champion.counts)]
    models = (candidate, champion, floor)
    alphas = {name: alpha if name == gates.primary else 1 - gates.confidence for name in names}
    comparisons = tuple(_compare(name, metrics[name], models, gates, alphas[name], seed) for name in names)
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
        n_comparisons=n_comparisons,
        resamples=enough(gates.resamples, alpha),
        seed=seed,
        candidate_parameters=candidate.parameters,
        champion_parameters=champion.parameters if champion else None,
        comparisons=comparisons,
        objections=objections,
        caveats=_caveats(comparisons),
    )


def _compare(
    name: str, metric: Metric, models: Sequence[ScoredModel | None], gates: Gates, alpha: float, seed: int
) -> Comparison:
    """models: candidate, champion, floor."""
    own, current, lowest = (model.counts.get(name) if model else None for model in models)
    value, champion_value, floor_value = (_overall(metric, counts) for counts in (own, current, lowest))
    minimum = gates.minimum.get(name)
    tolerance = gates.tolerance.get(name, getattr(metric, "tolerance", TOLERANCE))
    interval, rows, unpaired = None, len(own.ids) if own else 0, 0
    verdict = "missing" if own is None else "first" if models[1] is None else "new"
    reference = current or lowest
    if own and reference:
        left, right = _pair(own, reference)
        rows, unpaired = len(left), len(own.ids) + len(reference.ids) - 2 * len(left)
        if rows:
            interval = paired_bootstrap(left, right, metric, alpha, enough(gates.resamples, alpha), seed)
        verdict = _verdict(interval, rows, tolerance, alpha)
        if (value is None and champion_value is None) if current else floor_value is None:
            verdict = "inconclusive"  # the rows contain nothing that this metric counts
        if not current:  # compared with the floor
            new = "better" if models[1] is None else "new"
            verdict = {"better": new, "worse": "worse"}.get(verdict, "at_floor")
    return Comparison(
        metric=name,
        better=metric.better,
        candidate=value,
        champion=champion_value,
        rows=rows,
        unpaired=unpaired,
        **{bound: _finite(getattr(interval, bound)) if interval else None for bound in ("gain", "low", "high")},
        p=interval.p if interval else None,
        tolerance=tolerance,
        minimum=minimum,
        minimum_met=minimum is None or _meets(value, minimum, metric.better),
        verdict=verdict,
        unit=getattr(metric, "unit", "%"),
        floor=floor_value,
        floor_answer=getattr(getattr(metric, "floor", None), "answer", ""),
    )


def _verdict(interval: Interval | None, rows: int, tolerance: float, alpha: float) -> str:
    # `not >=` instead of `<`: a gain that is not a number counts as worse.
    if interval is None or not interval.gain >= -tolerance:
        return "worse"
    if interval.low > 0 and interval.p <= alpha:
        return "better"
    return "not_worse" if rows >= MIN_ROWS and interval.low >= -tolerance else "inconclusive"


def _merit(primary: Comparison, candidate: ScoredModel, champion: ScoredModel | None) -> tuple[bool, str]:
    """Whether the primary metric earns the promotion, and the reason as a sentence."""
    if champion is None:
        return _merit_of_first(primary)
    if primary.champion is None and primary.verdict in ("new", "at_floor", "worse"):
        return (
            False,
            f"{primary.metric}: {champion.name} was not scored on it, so nothing shows {candidate.name} better",
        )
    if primary.gain is None:
        return False, f"{primary.metric}: no row was scored by both models, so nothing can be shown"
    change = (
        f"{primary.metric} {_shown(primary, primary.champion)} -> {_shown(primary, primary.candidate)}, "
        f"{_evidence(primary)}"
    )
    if primary.verdict == "better":
        return True, f"significantly better: {change}"
    if candidate.parameters <= SMALLER * champion.parameters and primary.verdict == "not_worse":
        return True, f"not worse with {candidate.parameters:,} parameters instead of {champion.parameters:,}: {change}"
    return False, f"not significantly better: {change}"


def _merit_of_first(primary: Comparison) -> tuple[bool, str]:
    if primary.gain is None:
        return False, f"{primary.metric}: there is neither a champion nor a floor to compare the first model with"
    value = f"first model: {primary.metric} {_shown(primary, primary.candidate)}"
    if primary.verdict == "better":
        return True, f"{value} is significantly better than {_floor(primary)}, {_evidence(primary)}"
    return False, f"{value} is not significantly better than {_floor(primary)}, {_evidence(primary)}"


def _floor(row: Comparison) -> str:
    return f"the floor of {_shown(row, row.floor)}" + (f" ({row.floor_answer})" if row.floor_answer else "")


def _evidence(row: Comparison) -> str:
    gain = round(row.gain or 0.0, 2) + 0.0  # no "-0.00"
    return f"gain {gain:+.2f} (at least {_number(row.low)}, p {row.p:.2g}, {row.rows} rows)"


def _objections(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    objections = []
    for row in comparisons:
        if not row.minimum_met:
            bound = "at most" if row.better == "lower" else "at least"
            objections.append(
                f"{row.metric} is {_shown(row, row.candidate)}, expected {bound} {row.minimum:g} {row.unit}"
            )
        if row.verdict == "missing":
            objections.append(f"{row.metric} is missing: the champion has it at {_shown(row, row.champion)}")
        if row.verdict == "worse":
            objections.append(_worse(row))
    return tuple(objections)


def _worse(row: Comparison) -> str:
    than = "" if row.champion is not None else f" than {_floor(row)}"
    if row.gain is not None:
        return f"{row.metric} is worse{than} by {abs(row.gain):.2f} points, tolerance {row.tolerance:g}"
    if row.rows and row.candidate is None:
        return f"{row.metric} is not a number"
    return f"{row.metric} has no row that both models were scored on"


def _caveats(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    caveats = []
    for row in comparisons:
        if row.verdict == "inconclusive" and row.gain is not None:
            caveats.append(
                f"{row.metric}: within its tolerance of {row.tolerance:g}, but {row.rows} rows cannot rule out "
                f"{_number(row.low)} points"
            )
        if at_floor := floor_caveat(row):
            caveats.append(at_floor)
        if row.unpaired:
            caveats.append(f"{row.metric}: {row.unpaired} rows were scored by one model alone and are not compared")
    return tuple(caveats)


def floor_caveat(row: Comparison) -> str | None:
    """A caveat about a metric that is not shown to be better than its floor."""
    if row.verdict != "at_floor" or row.candidate is None:
        return None
    return f"{row.metric} {_shown(row, row.candidate)} is not shown to be better than {_floor(row)}"


def _pair(candidate: RowCounts, champion: RowCounts) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the rows that both have, in the candidate's order."""
    positions = {row: position for position, row in enumerate(champion.ids)}
    both = [(position, positions[row]) for position, row in enumerate(candidate.ids) if row in positions]
    left, right = [pair[0] for pair in both], [pair[1] for pair in both]
    return np.asarray(candidate.counts)[left], np.asarray(champion.counts)[right]


def _overall(metric: Metric, rows: RowCounts | None) -> float | None:
    return _finite(float(metric.value(np.asarray(rows.counts).sum(axis=0)))) if rows and len(rows.ids) else None


def _meets(value: float | None, minimum: float, better: str) -> bool:
    if value is None:
        return False
    return value <= minimum if better == "lower" else value >= minimum


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(row: Comparison, value: float | None) -> str:
    """A value with its unit."""
    return f"{_number(value)} {row.unit}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{round(value, 2) + 0.0:.2f}"


def _check(candidate: ScoredModel, gates: Gates, metrics: Mapping[str, Metric]) -> None:
    for name in (gates.primary, *gates.tolerance, *gates.minimum):
        if name not in metrics:
            raise GateError(f"the gates name the metric {name!r}; there are {', '.join(sorted(metrics))}")
    for name in (gates.primary, *gates.minimum):
        if name not in candidate.counts or not len(candidate.counts[name].ids):
            raise GateError(
                f"{candidate.name} has no scored rows for {name}: the test split has no such labels, "
                "or the model lacks the task; change gates.primary / gates.minimum or the corpora"
            )
