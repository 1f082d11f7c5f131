"""What each task of a search reaches alone with a trial's budget: the single-task cells of a study, kept by content.

    single_task(recipe, utterances, features, store)      # Scalar.gain(...)

A study with the same epochs and share of the rows has them already (`motet study --epochs E --share S`), and finds
them here afterwards: nothing is trained twice. Figures are of the rows that a trial validates on.
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
from pipelines.storage.store import Manifest, Store
from pipelines.study.cells import closed
from pipelines.study.study import study
from pipelines.training.prepare import bounded, labelled, trainable

if TYPE_CHECKING:
    from pipelines.core.progress import Report


def single_task(
    recipe: Recipe,
    utterances: list[Manifest],
    features: list[Manifest],
    store: Store,
    progress: Report | None = None,
) -> Scalar:
    """The scalar of relative gains; a mean error where fewer than two tasks can be measured.

    Raises:
        StudyError: a task without training labels, a cluster too small, or a single-task training that failed.
    """
    valid = labelled(open_dataset(store, utterances, features), recipe).split("valid").rows
    measured = [task for task in recipe.tasks if pc.any(trainable(valid, str(task))).as_py()]
    left_out = {str(task): "no valid row is labelled" for task in recipe.tasks if task not in measured}
    if len(measured) < 2:
        return Scalar("mean", left_out=left_out)
    # A study of another set of tasks is another study: all of them, wherever that is possible.
    tasks = {task: config for task, config in recipe.tasks.items() if task in measured}
    trainer = replace(recipe.trainer, epochs=recipe.search.epochs)
    budgeted = recipe.model_copy(update={"tasks": tasks, "trainer": trainer})
    share = recipe.search.share
    found = study(
        budgeted, utterances, features, store, seeds=1, kinds=("single",), split="valid", share=share, progress=progress
    )
    ids = set(valid["id"].take(bounded(valid)).to_pylist())
    single = {}
    for task in found.tasks:
        figures = validated(found.scores(closed(frozenset({task}), found.needs), found.seeds[0]), ids)
        metric = metric_of(task, {f"valid/{name}": value for name, value in figures.items()})
        if metric is None:
            left_out[task] = "too few valid rows to score it"
        else:
            single[metric] = figures[metric]
    return Scalar.gain(single, left_out, budget_of(recipe))


def validated(scores: Scores, ids: Sequence[str] | set[str]) -> dict[str, float]:
    """The metrics over these rows alone, in percent.

    Speakers are enrolled with all rows, so their figure may differ a little from a trial's where `ids` are not all.
    """
    found = {}
    for metric, rows in scores.counts.items():
        chosen = np.array([id_ in ids for id_ in rows.ids])
        found[metric] = float(METRICS[metric].value(np.asarray(rows.counts)[chosen].sum(axis=0)))
    return found


def budget_of(recipe: Recipe) -> str:
    share = "all" if recipe.search.share == 1 else f"{100 * recipe.search.share:g} % of the"
    epochs = f"{recipe.search.epochs} epoch{'s' if recipe.search.epochs > 1 else ''}"
    return f"{epochs} of {share} training rows"
