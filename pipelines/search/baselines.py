"""Single-task baselines of a search: the single-task cells of a study with the budget of a trial.

    single_task(context)      # Scalar.gain(...)

Cells are shared with a study of the same epochs and share of the rows (`motet study --epochs E --share S`). Scores are
computed on the rows that a trial validates on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from mtl.metrics.scoring import METRICS
from pipelines.data.dataset import open_dataset
from pipelines.evaluation.evaluate import Scores
from pipelines.recipe import Recipe
from pipelines.search.scalar import Scalar, metric_of
from pipelines.stages.context import Context
from pipelines.study.cells import closed
from pipelines.study.study import study
from pipelines.training.prepare import bounded, labelled, trainable

if TYPE_CHECKING:
    from pipelines.core.progress import Report


def single_task(context: Context, progress: Report | None = None) -> Scalar:
    """The objective of relative gains, or of the mean error if fewer than two tasks can be measured.

    Raises:
        StudyError: a task without training labels, a cluster too small, or a single-task training that failed.
    """
    recipe = context.recipe
    valid = labelled(open_dataset(context.store, context.utterances, context.features), recipe).split("valid").rows
    measured = [task for task in recipe.tasks if pc.any(trainable(valid, str(task))).as_py()]
    left_out = {str(task): "no valid row is labelled" for task in recipe.tasks if task not in measured}
    if len(measured) < 2:
        return Scalar("mean", left_out=left_out)
    # All measurable tasks: a study of another set of tasks would be another study.
    tasks = {task: config for task, config in recipe.tasks.items() if task in measured}
    trainer = replace(recipe.trainer, epochs=recipe.search.epochs)
    budgeted = recipe.model_copy(update={"tasks": tasks, "trainer": trainer})
    share = recipe.search.share
    cells = study(context.with_recipe(budgeted), seeds=1, kinds=("single",), share=share, progress=progress)
    ids = set(valid["id"].take(bounded(valid)).to_pylist())
    single = {}
    for task in cells.tasks:
        figures = validated(cells.scores(closed(frozenset({task}), cells.needs), cells.seeds[0]), ids)
        metric = metric_of(task, {f"valid/{name}": value for name, value in figures.items()})
        if metric is None:
            left_out[task] = "too few valid rows to score it"
        else:
            single[metric] = figures[metric]
    return Scalar.gain(single, left_out, budget_of(recipe))


def validated(scores: Scores, ids: Sequence[str] | set[str]) -> dict[str, float]:
    """The metrics over these rows, in percent.

    Speakers are enrolled with all rows, so their score may differ slightly from a trial's if `ids` are a subset.
    """
    values = {}
    for metric, rows in scores.counts.items():
        chosen = np.array([id_ in ids for id_ in rows.ids])
        values[metric] = float(METRICS[metric].value(np.asarray(rows.counts)[chosen].sum(axis=0)))
    return values


def budget_of(recipe: Recipe) -> str:
    share = "all" if recipe.search.share == 1 else f"{100 * recipe.search.share:g} % of the"
    epochs = f"{recipe.search.epochs} epoch{'s' if recipe.search.epochs > 1 else ''}"
    return f"{epochs} of {share} training rows"
