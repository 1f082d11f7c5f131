"""The studies as stages of a flow: train what is missing, say what was found, keep its page.

    plain(root, recipe_key, utterances, features, seeds, kinds, split, share)           # which tasks help which
    by_labels(root, ..., labels, sparse, seeds, split, share)                           # how few labels will do
    by_variants(root, ..., sharing, balancing, seeds, split, share)                     # which mode, which method
    by_folds(root, ..., folds, seeds)                                                   # on speakers never heard

Each gives a night.Done whose value is what was found as plain data, with the place of its page under `report`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.core import progress
from pipelines.nightly import DatasetRef, StageResult, Step, identity, kept_recipe, manifests, step
from pipelines.recipe import Recipe
from pipelines.storage.store import Manifest, Store, fingerprint
from pipelines.study.table import Split

if TYPE_CHECKING:
    from pipelines.core.progress import Report
    from pipelines.registry.tracking import Run


@dataclass(frozen=True)
class _Stage:
    """What a study is made from, and where it is written down."""

    data: tuple[Recipe, list[Manifest], list[Manifest], Store]
    run: Run
    report: Report
    step: Step

    def keep(self, name: str, content: Mapping[str, Any], page: str, text: str) -> StageResult:
        """Keeps what was found and its page, in the store and in MLflow."""
        from pipelines.promotion import place

        recipe, _, _, store = self.data
        key = f"reports/{recipe.name}/{name}-{fingerprint(content)}"
        store.put_bytes(f"{key}.json", json.dumps(content).encode())
        store.put_bytes(f"{key}.html", page.encode())
        self.run.log_text(json.dumps(content, indent=1), f"{name}.json")
        self.run.log_text(page, f"{name}.html")
        return self.step.done(text, {**content, "report": place(store, f"{key}.html")})


@contextmanager
def _stage(
    root: str, recipe_key: str, utterances: Sequence[DatasetRef], features: Sequence[DatasetRef], *details: object
) -> Iterator[_Stage]:
    from pipelines.registry import tracking

    store = Store(root)
    recipe = kept_recipe(store, recipe_key)
    tables, found = manifests(store, utterances), manifests(store, features)
    name = " ".join(("study", recipe.name, identity(recipe, tables), *map(str, details)))
    with (
        tracking.start(root, recipe, name=name, manifests=[*tables, *found]) as run,
        step("study") as current,
        progress.current().bar("study", "cell") as report,
    ):
        yield _Stage((recipe, tables, found, store), run, report, current)


def plain(
    root: str,
    recipe_key: str,
    utterances: Sequence[DatasetRef],
    features: Sequence[DatasetRef],
    seeds: int,
    kinds: Sequence[str],
    split: Split,
    share: float,
) -> StageResult:
    """The cells of a study, what they say, and its page. Value: study_report.Findings as plain data, and `report`."""
    from pipelines.study.page import findings_of, render
    from pipelines.study.study import study

    with _stage(root, recipe_key, utterances, features, split, f"{share:g}") as stage:
        cells = study(*stage.data, seeds, kinds, split, share, tracking=stage.run, progress=stage.report)
        findings = findings_of(cells)
        content = findings.to_json()
        # MLflow takes no "+" in a metric's name.
        gains = {f"gain/{row['cell'].replace('+', '-')}/{row['task']}": row["gain"] for row in content["gains"]}
        means = {f"gain/{row['cell'].replace('+', '-')}": row["gain"] for row in content["means"]}
        stage.run.log({**gains, **means}, step=0)
        text = f"{len(cells.cells)} models x {len(cells.seeds)} seeds, {cells.rows:,} {split} rows"
        return stage.keep("study", content, render(findings), text)


def by_labels(
    root: str,
    recipe_key: str,
    utterances: Sequence[DatasetRef],
    features: Sequence[DatasetRef],
    labels: Sequence[float],
    sparse: Sequence[str],
    seeds: int,
    split: Split,
    share: float,
) -> StageResult:
    """Joint and single-task models by their share of the labels. Value: study_labels.Sparse as plain data, `report`."""
    from pipelines.study.labels import render, sparse_of, study_by_labels

    shown = ",".join(f"{part:g}" for part in labels)
    with _stage(root, recipe_key, utterances, features, "labels", shown, split, f"{share:g}") as stage:
        studies = study_by_labels(
            *stage.data, labels, sparse, seeds, split, share, tracking=stage.run, progress=stage.report
        )
        found = sparse_of(studies, stage.data[1], stage.data[2])
        models = sum(len(one.cells) * len(one.seeds) for one in studies.values())
        return stage.keep("labels", found.to_json(), render(found), f"{models} models, {found.rows:,} {split} rows")


def by_folds(
    root: str, recipe_key: str, utterances: Sequence[DatasetRef], features: Sequence[DatasetRef], folds: int, seeds: int
) -> StageResult:
    """Each speaker held out once. Value: folds.Pooled as plain data, and `report`."""
    from pipelines.study.folds import pooled_of, render, study_by_folds

    with _stage(root, recipe_key, utterances, features, "folds", folds) as stage:
        studies = study_by_folds(*stage.data, folds, seeds, tracking=stage.run, progress=stage.report)
        found = pooled_of(studies)
        models = sum(len(one.cells) * len(one.seeds) for one in studies)
        text = f"{models} models, {found.recordings:,} recordings of {found.speakers} speakers"
        return stage.keep("folds", found.to_json(), render(found), text)


def by_variants(
    root: str,
    recipe_key: str,
    utterances: Sequence[DatasetRef],
    features: Sequence[DatasetRef],
    sharing: Sequence[str],
    balancing: Sequence[str],
    seeds: int,
    split: Split,
    share: float,
) -> StageResult:
    """Joint models by sharing mode and balancing method. Value: study_variants.Compared as plain data, and `report`."""
    from pipelines.study.variants import compared_of, render, study_variants

    shown = ",".join((*sharing, *balancing))
    with _stage(root, recipe_key, utterances, features, shown, split, f"{share:g}") as stage:
        studies = study_variants(
            *stage.data, sharing, balancing, seeds, split, share, tracking=stage.run, progress=stage.report
        )
        found = compared_of(studies)
        models = sum(len(one.cells) * len(one.seeds) for one in studies.values())
        return stage.keep("variants", found.to_json(), render(found), f"{models} models, {found.scored:,} {split} rows")
