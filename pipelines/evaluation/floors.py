"""The floor: a scored model without knowledge, which the gate compares a first model with.

    floor = floor_of(scores.counts, test_rows)
    decision = decide(candidate, None, recipe.gates, METRICS, floor=floor)

The floors are declared with the metrics (mtl.metrics.floors) and applied here to the rows of the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from mtl.metrics.floors import ScoredRows
from mtl.metrics.scoring import metric_of
from pipelines.data.dataset import Dataset
from pipelines.evaluation.gates import RowCounts, ScoredModel

NAME = "the floor"


def floor_of(counts: Mapping[str, RowCounts], dataset: Dataset) -> ScoredModel:
    """Counts of the floor for each metric in `counts`, on the same rows in the same order.

    counts: of the candidate, including "<metric>@<domain>". dataset: the rows that it was scored on.
    """
    positions = {id_: position for position, id_ in enumerate(dataset.rows["id"].to_pylist())}
    rows = dataset.rows.to_pylist()
    floors = {}
    for name, scored in counts.items():
        chosen = [positions[id_] for id_ in scored.ids]
        scored_rows = ScoredRows(
            rows=[rows[position] for position in chosen],
            counts=np.asarray(scored.counts, dtype=np.float64),
            other=_others(counts, scored),
            features=partial(dataset.features, chosen),
            waveforms=partial(dataset.waveforms, chosen),
            hop_ms=dataset.hop_ms if dataset.spec else 0.0,
        )
        floors[name] = RowCounts(scored.ids, metric_of(name).floor.counts(scored_rows))
    return ScoredModel(NAME, floors, parameters=0)


def _others(counts: Mapping[str, RowCounts], scored: RowCounts) -> Callable[[str], np.ndarray | None]:
    """Counts of another metric on the same rows; None where it was not scored on every one of them."""

    def other(name: str) -> np.ndarray | None:
        if name not in counts:
            return None
        by_id: dict[str, Any] = dict(zip(counts[name].ids, np.asarray(counts[name].counts), strict=True))
        if not all(id_ in by_id for id_ in scored.ids):
            return None
        return np.array([by_id[id_] for id_ in scored.ids])

    return other
