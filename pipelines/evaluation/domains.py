"""Error rates by domain: for the report, with intervals, and for the gate, if the recipe has such a tolerance.

    figures(scores)                                        # "transcript/wer@an4" … by corpus, and by the label `domain`
    gates, names = gated(recipe.gates, counts_of(scores, recipe.domains.by))

`gates: {tolerance: {"transcript/wer@*": 1.0}}` requires that no domain becomes worse by more than one point; a mean
over domains can improve while one of them becomes worse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mtl.metrics.bootstrap import GateError
from mtl.metrics.scoring import Counts, by_domain, metric_of
from pipelines.evaluation.evaluate import Scores, interval_of
from pipelines.evaluation.gates import RowCounts
from pipelines.recipe import Gates

EVERY = "*"  # in the name of a gate: each domain
COLUMNS = ("corpus", "domain")


@dataclass(frozen=True)
class Row:
    """One line of the table of metrics, in percent.

    low, high: 95 % bootstrap interval. limit: the gate's minimum. floor: value of a model without knowledge; None
    without a decision of the gate, or if the decision has no floors.
    """

    metric: str
    better: str
    value: float
    low: float
    high: float
    rows: int
    champion: float | None = None
    limit: float | None = None
    verdict: str = ""
    floor: float | None = None


def counts_of(scores: Scores, by: str) -> dict[str, RowCounts]:
    """Counts of "<metric>@<domain>"; by: the column that names the domains of the rows."""
    ids: list[str] = scores.table["id"].to_pylist()
    position = {id_: number for number, id_ in enumerate(ids)}
    by_position = {
        metric: Counts(np.array([position[id_] for id_ in rows.ids]), np.asarray(rows.counts))
        for metric, rows in scores.counts.items()
    }
    return {
        name: RowCounts([ids[row] for row in counts.rows.tolist()], counts.counts)
        for name, counts in by_domain(by_position, domains_of(scores, by)).items()
    }


def domains_of(scores: Scores, by: str) -> list[str | None]:
    """The domain of each scored row, in their order."""
    if by == "corpus":
        return list(scores.table["corpus"].to_pylist())
    return [json.loads(reference).get(by) for reference in scores.table["reference"].to_pylist()]


def figures(scores: Scores) -> dict[str, list[Row]]:
    """Rows of a table for each column that distinguishes several domains, with 95 % bootstrap intervals."""
    tables = {}
    for by in COLUMNS:
        counts = counts_of(scores, by)
        if len({name.partition("@")[2] for name in counts}) > 1:
            tables[by] = [_row(name, rows) for name, rows in counts.items()]
    return tables


def _row(name: str, rows: RowCounts) -> Row:
    metric, (low, high) = metric_of(name), interval_of(name, rows.counts)
    return Row(name, metric.better, float(metric.value(rows.counts.sum(axis=0))), low, high, len(rows.ids))


def gated(gates: Gates, counts: Mapping[str, RowCounts]) -> tuple[Gates, list[str]]:
    """The gates with EVERY replaced by the domains, and the metrics of single domains in them.

    Raises:
        GateError: a gate names a domain without test rows.
    """
    expanded = {section: _expanded(getattr(gates, section), counts, section) for section in ("tolerance", "minimum")}
    names = sorted({name for limits in expanded.values() for name in limits if "@" in name})
    return gates.model_copy(update=expanded), names


def _expanded(limits: Mapping[str, float], counts: Mapping[str, RowCounts], section: str) -> dict[str, float]:
    expanded: dict[str, float] = {}
    for name, limit in limits.items():
        metric, at, domain = name.partition("@")
        names = [other for other in counts if other.startswith(f"{metric}@")]
        if at and domain != EVERY and name not in counts:
            known = ", ".join(names) or f"none of {metric}"
            raise GateError(f"gates.{section} names {name!r}, of which there is no test row; there are {known}")
        if domain == EVERY:
            expanded |= {other: limits.get(other, limit) for other in names}
        else:
            expanded[name] = limit
    return expanded
