"""Few labels: joint and single-task models by their share of the training labels.

    studies = study_by_labels(context, labels=(0.01, 0.1, 1.0))
    result = result_of(studies)

Each share is a study (study.py) of the recipe with that share of the labels of the sparse tasks, as if only so many
utterances had been annotated; all other labels stay. Cells are shared with other studies of the same
recipe, and an interrupted study resumes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from pipelines.recipe import Recipe
from pipelines.report import charts
from pipelines.stages.context import Context
from pipelines.study.cells import Study, StudyError, planned
from pipelines.study.comparison import NO_CHANGE, Comparison, change_of
from pipelines.study.options import SEEDS, SPARSE, Split
from pipelines.study.result import GAIN, SAME_BUDGET, Chart, Section, StudyResult, Table, dependency_notes
from pipelines.study.study import train_missing
from pipelines.training.prepare import sampled, trainable

if TYPE_CHECKING:
    from pipelines.core.progress import Report
    from pipelines.registry.tracking import Run


def study_by_labels(
    context: Context,
    labels: Sequence[float],
    sparse: Sequence[str] = (),
    seeds: int = SEEDS,
    split: Split = "valid",
    share: float = 1.0,
    tracking: Run | None = None,
    progress: Report | None = None,
) -> dict[float, Study]:
    """A finished study for each share of the labels, the smallest first.

    sparse: the tasks whose labels are reduced; by default those of SPARSE that the recipe has.
    progress: counts the cells of all studies.

    Raises:
        StudyError: a share outside (0, 1], a task that the recipe lacks, or an error of `planned` or `train_missing`.
    """
    recipe = context.recipe
    tasks = sparse_tasks(recipe, sparse)
    shares = sorted(set(labels))
    if not shares or not all(0 < part <= 1 for part in shares):
        raise StudyError(f"shares of the labels are {', '.join(map(str, labels))}; expected numbers above 0, up to 1")
    studies = {
        part: planned(
            context.with_recipe(with_labels(recipe, tasks, part)), seeds, ("joint",), split, share,
            alone=tasks, variant=f"labels-{part:g}",
        )
        for part in shares
    }  # fmt: skip
    train_missing(list(studies.values()), tracking, progress)
    return studies


def sparse_tasks(recipe: Recipe, names: Sequence[str]) -> list[str]:
    """The tasks whose labels are reduced. Raises StudyError when the recipe has none of them."""
    if unknown := sorted(set(names) - set(recipe.tasks)):
        raise StudyError(
            f"recipe {recipe.name!r} has no task {', '.join(unknown)}; its tasks: {', '.join(recipe.tasks)}"
        )
    tasks = [str(task) for task in recipe.tasks if task in (names or SPARSE)]
    if not tasks:
        raise StudyError(f"recipe {recipe.name!r} has none of {', '.join(SPARSE)}; name the tasks with --sparse")
    return tasks


def with_labels(recipe: Recipe, tasks: Sequence[str], share: float) -> Recipe:
    """The recipe with that share of the tasks' labels."""
    changed = {
        task: config.model_copy(update={"labels": share}) if task in tasks else config
        for task, config in recipe.tasks.items()
    }
    return recipe.model_copy(update={"tasks": changed})


def result_of(studies: Mapping[float, Study]) -> StudyResult:
    """Compares joint and single-task models at each share.

    Figures: curves, by task its `metric`, `carrier` (tasks that its single-task model trains as well) and `points`, one
    for each share: share, labels (rows that train it), joint and single (value, low, high), gain (gain, low, high).
    """
    comparisons = {share: Comparison(study) for share, study in studies.items()}
    first = comparisons[min(comparisons)]
    study = first.study
    curves: dict[str, dict[str, Any]] = {}
    for task in study.tasks:
        reduced = all(one.recipe.tasks[task].labels == share for share, one in studies.items())
        if reduced and all(one.alone(task) in one.study.cells for one in comparisons.values()):
            points = [
                {"share": share, "labels": _training_rows(one.study, task), **_point(one, task)}
                for share, one in comparisons.items()
            ]
            carrier = sorted(first.alone(task) - {task})
            curves[task] = {"metric": first.metrics[task], "carrier": carrier, "points": points}
    reduced_tasks = " and ".join(curves)
    rows = [_row(task, curve, point) for task, curve in curves.items() for point in curve["points"]]
    return StudyResult.of(
        list(studies.values()),
        kind="labels",
        heading="scores by share of the labels",
        summary=f"{', '.join(study.tasks)} together against {reduced_tasks} alone",
        table_title=f"joint and single-task models by share of the labels, on {study.rows:,} {study.split} rows",
        rows=rows,
        notes=[
            f"The labels of {reduced_tasks} are reduced together, as if only a share of the utterances had been "
            "annotated; those of the other tasks are all there.",
            "A larger share contains the smaller ones. A label that no remaining row has is unknown to the model, and "
            "counts as an error.",
            SAME_BUDGET,
            *dependency_notes(study, list(curves)),
        ],
        figures={"rows": study.rows, "part": study.share, "curves": curves},
        sections=_sections(curves, rows),
    )


def _training_rows(study: Study, task: str) -> int:
    rows = study.dataset().split("train").rows
    if study.share < 1:
        rows = rows.take(sampled(rows, study.share))
    return int(pc.sum(trainable(rows, task)).as_py())


def _point(comparison: Comparison, task: str) -> dict[str, Any]:
    joint, single = comparison.study.joint, comparison.alone(task)
    return {
        "joint": change_of(comparison.draws[joint, task], "value"),
        "single": change_of(comparison.draws[single, task], "value"),
        "gain": change_of(comparison.relative(joint, single, task)) or NO_CHANGE,
    }


def _row(task: str, curve: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": task,
        "metric": curve["metric"],
        "labels, %": f"{100 * point['share']:g}",
        "rows": f"{point['labels']:,}",
        "joint, %": point["joint"],
        "single, %": point["single"],
        GAIN: point["gain"],
    }


def _sections(curves: Mapping[str, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    bars = "Bars: 95 % intervals by a bootstrap over rows and seeds. Legend: values at the largest share."
    gain = "Gain of the joint model relative to the single-task model of the same share, positive for better."
    charts = [Chart(f"{curve['metric']}, %", figure(curve)) for curve in curves.values()]
    return [
        Section("Scores by share of the labels", charts=charts, caption=bars),
        Section("Figures", tables=[Table(rows, text=2)] if rows else [], caption=gain),
    ]


def figure(curve: Mapping[str, Any]) -> str:
    """Share of the labels against the metric, joint and single, as inline SVG."""
    ticks = {point["share"]: f"{100 * point['share']:g} %" for point in curve["points"]}
    series = {
        model: [
            (point["share"], *(math.nan if value is None else value for value in point[model].values()))
            for point in curve["points"]
        ]
        for model in ("joint", "single")
    }
    return charts.interval_chart(series, "share of the labels", curve["metric"], ticks)
