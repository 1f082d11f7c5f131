"""Error rates of each domain alone: for the eye, with intervals, and for the gate, where a recipe asks.

    figures(scores)                                        # "transcript/wer@an4" … by corpus, and by the label `domain`
    gates, mine = gated(recipe.gates, counts_of(scores, recipe.domains.by))

`gates: {tolerance: {"transcript/wer@*": 1.0}}` asks that a candidate is nowhere worse by more than a point: a mean over
domains can get better while one of them gets worse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mtl.metrics.bootstrap import GateError
from mtl.metrics.scoring import Counts, by_domain, metric_of
from pipelines.evaluation.gates import RowCounts
from pipelines.report.page import Row

if TYPE_CHECKING:
    from pipelines.evaluation.evaluate import Scores
    from pipelines.recipe import Gates

EVERY = "*"  # in the name of a gate: each domain
COLUMNS = ("corpus", "domain")


def counts_of(scores: Scores, by: str) -> dict[str, RowCounts]:
    """Counts of "<metric>@<domain>"; by: the column that names the domains of the rows."""
    place = {row: position for position, row in enumerate(scores.table["id"].to_pylist())}
    plain = {
        metric: Counts(np.array([place[row] for row in rows.ids]), np.asarray(rows.counts))
        for metric, rows in scores.counts.items()
    }
    ids = list(place)
    return {
        name: RowCounts([ids[row] for row in counts.rows.tolist()], counts.counts)
        for name, counts in by_domain(plain, domains_of(scores, by)).items()
    }


def domains_of(scores: Scores, by: str) -> list[str | None]:
    """The domain of each scored row, in their order."""
    if by == "corpus":
        return list(scores.table["corpus"].to_pylist())
    return [json.loads(reference).get(by) for reference in scores.table["reference"].to_pylist()]


def figures(scores: Scores) -> dict[str, list[Row]]:
    """Rows of a table for each column that tells several domains apart, with 95 % bootstrap intervals."""
    from pipelines.evaluation.evaluate import interval_of

    found = {}
    for by in COLUMNS:
        counts = counts_of(scores, by)
        if len({name.partition("@")[2] for name in counts}) > 1:
            found[by] = [
                Row(
                    metric=name,
                    better=metric_of(name).better,
                    value=float(metric_of(name).value(rows.counts.sum(axis=0))),
                    low=low,
                    high=high,
                    rows=len(rows.ids),
                )
                for name, rows in counts.items()
                for low, high in [interval_of(name, rows.counts)]
            ]
    return found


def gated(gates: Gates, counts: Mapping[str, RowCounts]) -> tuple[Gates, list[str]]:
    """The gates with EVERY written out, and the names in them that stand for one domain.

    Raises:
        GateError: a gate names a domain that no test row is of.
    """
    written = {section: _written_out(getattr(gates, section), counts, section) for section in ("tolerance", "minimum")}
    named = sorted({name for limits in written.values() for name in limits if "@" in name})
    return gates.model_copy(update=written), named


def _written_out(limits: Mapping[str, float], counts: Mapping[str, RowCounts], section: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, limit in limits.items():
        metric, at, domain = name.partition("@")
        there = [other for other in counts if other.startswith(f"{metric}@")]
        if at and domain != EVERY and name not in counts:
            known = ", ".join(there) or f"none of {metric}"
            raise GateError(f"gates.{section} names {name!r}, of which there is no test row; there are {known}")
        if domain == EVERY:
            found |= {other: limits.get(other, limit) for other in there}
        else:
            found[name] = limit
    return found
