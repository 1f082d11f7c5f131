"""Studies as stages of a flow: train the missing cells, compare them, store result and page.

    plain(root, recipe_key, utterances, features, seeds, kinds, split, share)           # transfer between tasks
    by_labels(root, ..., labels, sparse, seeds, split, share)                           # few labels
    by_variants(root, ..., sharing, balancing, seeds, split, share)                     # sharing modes, balancing
    by_folds(root, ..., folds, seeds)                                                   # held-out speakers

The value of each StageResult is StudyResult.to_json(), with the location of the page under `report`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.core import progress
from pipelines.nightly import DatasetRef, StageResult, identity, kept_recipe, manifests, step
from pipelines.recipe import Recipe
from pipelines.storage.store import Manifest, Store, fingerprint
from pipelines.study.options import Split

if TYPE_CHECKING:
    from pipelines.registry.tracking import Run
    from pipelines.study.result import StudyResult

Data = tuple[Recipe, list[Manifest], list[Manifest], Store]  # the first arguments of every study


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
    """Tasks alone, all together, in pairs, and each left out."""
    from pipelines.study.pairs import result_of
    from pipelines.study.study import study

    def run(data: Data, tracking: Run, **report: Any) -> StudyResult:
        result = result_of(study(*data, seeds, kinds, split, share, tracking=tracking, **report))
        rows = [*result.figures["gains"], *result.figures["means"]]
        # MLflow takes no "+" in a metric's name.
        names = ["/".join(filter(None, ("gain", row["cell"].replace("+", "-"), row.get("task")))) for row in rows]
        tracking.log({name: row["gain"] for name, row in zip(names, rows, strict=True)}, step=0)
        return result

    return _stage(root, recipe_key, utterances, features, (split, f"{share:g}"), run)


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
    """Joint and single-task models by their share of the labels."""
    from pipelines.study.labels import result_of, study_by_labels

    def run(data: Data, **report: Any) -> StudyResult:
        studies = study_by_labels(*data, labels, sparse, seeds, split, share, **report)
        return result_of(studies, data[1], data[2])

    shares = ",".join(f"{part:g}" for part in labels)
    return _stage(root, recipe_key, utterances, features, ("labels", shares, split, f"{share:g}"), run)


def by_folds(
    root: str, recipe_key: str, utterances: Sequence[DatasetRef], features: Sequence[DatasetRef], folds: int, seeds: int
) -> StageResult:
    """Joint and single-task models with each speaker held out once."""
    from pipelines.study.folds import result_of, study_by_folds

    def run(data: Data, **report: Any) -> StudyResult:
        return result_of(study_by_folds(*data, folds, seeds, **report))

    return _stage(root, recipe_key, utterances, features, ("folds", folds), run)


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
    """Joint models by sharing mode and balancing method."""
    from pipelines.study.variants import result_of, study_variants

    def run(data: Data, **report: Any) -> StudyResult:
        return result_of(study_variants(*data, sharing, balancing, seeds, split, share, **report))

    names = ",".join((*sharing, *balancing))
    return _stage(root, recipe_key, utterances, features, (names, split, f"{share:g}"), run)


def _stage(
    root: str,
    recipe_key: str,
    utterances: Sequence[DatasetRef],
    features: Sequence[DatasetRef],
    details: Sequence[object],
    run: Callable[..., StudyResult],
) -> StageResult:
    """Runs a study, and stores its result and page in the store and in MLflow. details: in the MLflow run's name."""
    from pipelines.promotion import place
    from pipelines.registry import tracking
    from pipelines.study.result import render

    store = Store(root)
    recipe = kept_recipe(store, recipe_key)
    tables, derived = manifests(store, utterances), manifests(store, features)
    name = " ".join(("study", recipe.name, identity(recipe, tables), *map(str, details)))
    with (
        tracking.start(root, recipe, name=name, manifests=[*tables, *derived]) as tracked,
        step("study") as current,
        progress.current().bar("study", "cell") as report,
    ):
        result = run((recipe, tables, derived, store), tracking=tracked, progress=report)
        content, page = result.to_json(), render(result)
        key = f"reports/{recipe.name}/{result.kind}-{fingerprint(content)}"
        store.put_bytes(f"{key}.json", json.dumps(content).encode())
        store.put_bytes(f"{key}.html", page.encode())
        tracked.log_text(json.dumps(content, indent=1), f"{result.kind}.json")
        tracked.log_text(page, f"{result.kind}.html")
        text = f"{result.summary}, {result.scored:,} {result.split} rows"
        return current.done(text, {**content, "report": place(store, f"{key}.html")})
