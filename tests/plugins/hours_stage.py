"""A stage: hours of speech in each split of the utterance tables."""

from __future__ import annotations

from collections import Counter

from pipelines.core.stage import Stage
from pipelines.data.ingest import utterances
from pipelines.stages.context import Context


def hours_by_split(context: Context) -> tuple[str, dict[str, float]]:
    """Returns the line for the terminal and the report, and the value for later stages."""
    hours: Counter[str] = Counter()
    for manifest in context.utterances:
        for row in utterances(context.store, manifest).select(["split", "duration"]).to_pylist():
            hours[row["split"]] += (row["duration"] or 0.0) / 3600
    return ", ".join(f"{split} {value:.2f} h" for split, value in hours.items()), dict(hours)


HOURS = Stage("hours", hours_by_split, inputs=("ingest",))
