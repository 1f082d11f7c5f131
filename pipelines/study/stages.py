"""Studies as stages: train the missing cells, compare them, store result and page.

    context.execute(STUDY, seeds, kinds, split, share)                     # transfer between tasks
    context.execute(BY_LABELS, labels, sparse, seeds, split, share)        # few labels
    context.execute(BY_VARIANTS, sharing, balancing, seeds, split, share)  # sharing modes, balancing methods
    context.execute(BY_FOLDS, folds, seeds)                                # held-out speakers

The value of each is StudyResult.to_json(), with the location of the page under `report`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from pipelines.core.progress import Report
from pipelines.core.stage import Stage
from pipelines.nightly import identity
from pipelines.registry.tracking import Run
from pipelines.stages.context import Context
from pipelines.stages.outcome import location
from pipelines.storage.store import fingerprint
from pipelines.study import folds, labels, pairs, variants
from pipelines.study.options import Split
from pipelines.study.result import StudyResult, render
from pipelines.study.study import study

Value = tuple[str, dict[str, Any]]


def _tracked(context: Context, *details: object) -> AbstractContextManager[Run]:
    """The MLflow run of a study."""
    recipe = context.recipe
    return context.tracked(" ".join(("study", recipe.name, identity(recipe, context.utterances), *map(str, details))))


def _stored(context: Context, result: StudyResult) -> Value:
    """Writes the result and its page into the store and MLflow."""
    content, page = result.to_json(), render(result)
    key = f"reports/{context.recipe.name}/{result.kind}-{fingerprint(content)}"
    context.store.put_bytes(f"{key}.json", json.dumps(content).encode())
    context.store.put_bytes(f"{key}.html", page.encode())
    context.run.log_text(json.dumps(content, indent=1), f"{result.kind}.json")
    context.run.log_text(page, f"{result.kind}.html")
    text = f"{result.summary}, {result.scored:,} {result.split} rows"
    return text, {**content, "report": location(context.store, f"{key}.html")}


def _study(context: Context, seeds: int, kinds: Sequence[str], split: Split, share: float, *, report: Report) -> Value:
    """Tasks alone, all together, in pairs, and each left out."""
    with _tracked(context, split, f"{share:g}") as run:
        result = pairs.result_of(study(context, seeds, kinds, split, share, tracking=run, progress=report))
        rows = [*result.figures["gains"], *result.figures["means"]]
        # MLflow takes no "+" in a metric's name.
        names = ["/".join(filter(None, ("gain", row["cell"].replace("+", "-"), row.get("task")))) for row in rows]
        run.log({name: row["gain"] for name, row in zip(names, rows, strict=True)}, step=0)
        return _stored(context, result)


def _by_labels(
    context: Context,
    shares: Sequence[float],
    sparse: Sequence[str],
    seeds: int,
    split: Split,
    share: float,
    *,
    report: Report,
) -> Value:
    """Joint and single-task models by their share of the labels."""
    with _tracked(context, "labels", ",".join(f"{part:g}" for part in shares), split, f"{share:g}") as run:
        studies = labels.study_by_labels(context, shares, sparse, seeds, split, share, tracking=run, progress=report)
        return _stored(context, labels.result_of(studies))


def _by_folds(context: Context, groups: int, seeds: int, *, report: Report) -> Value:
    """Joint and single-task models with each speaker held out once."""
    with _tracked(context, "folds", groups) as run:
        studies = folds.study_by_folds(context, groups, seeds, tracking=run, progress=report)
        return _stored(context, folds.result_of(studies))


def _by_variants(
    context: Context,
    sharing: Sequence[str],
    balancing: Sequence[str],
    seeds: int,
    split: Split,
    share: float,
    *,
    report: Report,
) -> Value:
    """Joint models by sharing mode and balancing method."""
    with _tracked(context, ",".join((*sharing, *balancing)), split, f"{share:g}") as run:
        studies = variants.study_variants(
            context, sharing, balancing, seeds, split, share, tracking=run, progress=report
        )
        return _stored(context, variants.result_of(studies))


def _stage(function: Callable[..., Value]) -> Stage:
    """Without retries: the Ray tasks of the cells are retried, and finished cells are stored."""
    return Stage("study", function, inputs=("ingest", "features"), unit="cell", retries=0)


STUDY = _stage(_study)
BY_LABELS = _stage(_by_labels)
BY_VARIANTS = _stage(_by_variants)
BY_FOLDS = _stage(_by_folds)
