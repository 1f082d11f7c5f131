"""The studies as stages: train the cells that are missing, collect the findings, and store their page.

    context.execute(STUDY, seeds, kinds, split, share)                     # which tasks help which
    context.execute(BY_LABELS, labels, sparse, seeds, split, share)        # how few labels suffice
    context.execute(BY_VARIANTS, sharing, balancing, seeds, split, share)  # which mode, which method
    context.execute(BY_FOLDS, folds, seeds)                                # on held-out speakers

Each value is the findings as plain data, with the location of the page under `report`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pipelines.core.progress import Report
from pipelines.core.stage import Stage
from pipelines.nightly import identity
from pipelines.recipe import Recipe
from pipelines.registry.tracking import Run
from pipelines.stages.context import Context
from pipelines.stages.outcome import location
from pipelines.storage.store import Manifest, Store, fingerprint
from pipelines.study import folds as by_folds
from pipelines.study import labels as by_labels
from pipelines.study import page as by_task
from pipelines.study import variants as by_variants
from pipelines.study.study import study
from pipelines.study.table import Split

Value = tuple[str, dict[str, Any]]
Data = tuple[Recipe, list[Manifest], list[Manifest], Store]


@contextmanager
def _tracked(context: Context, *details: object) -> Iterator[tuple[Data, Run]]:
    """The arguments of a study, and its MLflow run."""
    recipe, tables = context.recipe, context.utterances
    with context.tracked(" ".join(("study", recipe.name, identity(recipe, tables), *map(str, details)))) as run:
        yield (recipe, tables, context.features, context.store), run


def _stored(context: Context, name: str, content: Mapping[str, Any], page: str) -> dict[str, Any]:
    """The findings with the location of their page, both stored and logged to MLflow."""
    key = f"reports/{context.recipe.name}/{name}-{fingerprint(content)}"
    context.store.put_bytes(f"{key}.json", json.dumps(content).encode())
    context.store.put_bytes(f"{key}.html", page.encode())
    context.run.log_text(json.dumps(content, indent=1), f"{name}.json")
    context.run.log_text(page, f"{name}.html")
    return {**content, "report": location(context.store, f"{key}.html")}


def _study(context: Context, seeds: int, kinds: Sequence[str], split: Split, share: float, *, report: Report) -> Value:
    """Which tasks help which. Value: `page.Findings`."""
    with _tracked(context, split, f"{share:g}") as (data, run):
        cells = study(*data, seeds, kinds, split, share, tracking=run, progress=report)
        findings = by_task.findings_of(cells)
        content = findings.to_json()
        # MLflow takes no "+" in a metric's name.
        gains = {f"gain/{row['cell'].replace('+', '-')}/{row['task']}": row["gain"] for row in content["gains"]}
        means = {f"gain/{row['cell'].replace('+', '-')}": row["gain"] for row in content["means"]}
        run.log({**gains, **means}, step=0)
        text = f"{len(cells.cells)} models x {len(cells.seeds)} seeds, {cells.rows:,} {split} rows"
        return text, _stored(context, "study", content, by_task.render(findings))


def _by_labels(
    context: Context,
    labels: Sequence[float],
    sparse: Sequence[str],
    seeds: int,
    split: Split,
    share: float,
    *,
    report: Report,
) -> Value:
    """Joint and single-task models by their share of the labels. Value: `labels.Sparse`."""
    shares = ",".join(f"{part:g}" for part in labels)
    with _tracked(context, "labels", shares, split, f"{share:g}") as (data, run):
        studies = by_labels.study_by_labels(*data, labels, sparse, seeds, split, share, tracking=run, progress=report)
        findings = by_labels.sparse_of(studies, context.utterances, context.features)
        text = f"{_count_models(studies.values())} models, {findings.rows:,} {split} rows"
        return text, _stored(context, "labels", findings.to_json(), by_labels.render(findings))


def _by_folds(context: Context, folds: int, seeds: int, *, report: Report) -> Value:
    """Each speaker held out once. Value: `folds.Pooled`."""
    with _tracked(context, "folds", folds) as (data, run):
        studies = by_folds.study_by_folds(*data, folds, seeds, tracking=run, progress=report)
        findings = by_folds.pooled_of(studies)
        text = f"{_count_models(studies)} models, {findings.recordings:,} recordings of {findings.speakers} speakers"
        return text, _stored(context, "folds", findings.to_json(), by_folds.render(findings))


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
    """Joint models by sharing mode and balancing method. Value: `variants.Compared`."""
    names = ",".join((*sharing, *balancing))
    with _tracked(context, names, split, f"{share:g}") as (data, run):
        studies = by_variants.study_variants(
            *data, sharing, balancing, seeds, split, share, tracking=run, progress=report
        )
        findings = by_variants.compared_of(studies)
        text = f"{_count_models(studies.values())} models, {findings.scored:,} {split} rows"
        return text, _stored(context, "variants", findings.to_json(), by_variants.render(findings))


def _count_models(studies: Any) -> int:
    return sum(len(one.cells) * len(one.seeds) for one in studies)


def _stage(function: Callable[..., Value]) -> Stage:
    """Without retries: the Ray tasks of the cells are retried, and finished cells are kept."""
    return Stage("study", function, inputs=("ingest", "features"), unit="cell", retries=0)


STUDY = _stage(_study)
BY_LABELS = _stage(_by_labels)
BY_VARIANTS = _stage(_by_variants)
BY_FOLDS = _stage(_by_folds)
