"""Sharing modes and balancing methods: the joint model in each of them, beside the single-task models.

    studies = study_variants(recipe, utterances, features, store, sharing=("mmoe",), balancing=("pcgrad",))
    result = result_of(studies)

The reference is the unchanged recipe: its joint model, and every task alone. Each variant is the joint model with
another sharing mode, at the recipe's balancing and as many parameters (mtl/analysis/equal_size.py changes the encoder's
feed-forward width, and its depth if necessary), or with another balancing method, at the recipe's sharing. Cells are
shared with other studies of the same recipe, and an interrupted study resumes. No variant is tuned: learning rate and
task weights are the recipe's, which favours the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl.analysis.equal_size import count_parameters, fit_size
from mtl.config.balancing import METHODS
from mtl.config.sharing import MODES
from mtl.inputs.codec import Codec
from pipelines.data.dataset import open_dataset
from pipelines.recipe import Recipe
from pipelines.stages.context import Context
from pipelines.study.cells import Study, StudyError, planned
from pipelines.study.comparison import NO_CHANGE, Change, Comparison, change_of, rounded
from pipelines.study.options import SEEDS, Split
from pipelines.study.result import (
    GAIN,
    ONE_IN_TWENTY,
    SAME_BUDGET,
    Section,
    StudyResult,
    Table,
    dependency_notes,
    unsigned,
)
from pipelines.study.study import train_missing
from pipelines.training.prepare import PrepareError, labelled, model_config, prepare

if TYPE_CHECKING:
    from pipelines.core.progress import Report
    from pipelines.registry.tracking import Run


def study_variants(
    context: Context,
    sharing: Sequence[str] = (),
    balancing: Sequence[str] = (),
    seeds: int = SEEDS,
    split: Split = "valid",
    share: float = 1.0,
    tracking: Run | None = None,
    progress: Report | None = None,
) -> dict[str, Study]:
    """A finished study for each variant; the unchanged recipe, with every task alone, is the first.

    Raises:
        StudyError: an error of `variants`, `planned` or `train_missing`.
    """
    recipe = context.recipe
    dataset = labelled(open_dataset(context.store, context.utterances, context.features), recipe)
    try:
        codec = prepare(recipe, dataset)[0]
    except PrepareError as error:
        raise StudyError(str(error)) from error
    recipes = variants(recipe, codec, sharing, balancing)
    studies: dict[str, Study] = {}
    for name, variant in recipes.items():
        unchanged = not studies
        studies[name] = planned(
            context.with_recipe(variant), seeds, ("joint",), split, share,
            alone=None if unchanged else (), variant="" if unchanged else name,
        )  # fmt: skip
    train_missing(list(studies.values()), tracking, progress)
    return studies


def variants(recipe: Recipe, codec: Codec, sharing: Sequence[str], balancing: Sequence[str]) -> dict[str, Recipe]:
    """The unchanged recipe, then one variant for each other mode and method.

    Raises:
        StudyError: a mode or method that is not known, or a mode that cannot be made as small as the recipe's own.
    """
    for kind, names, known in (("sharing mode", sharing, MODES), ("balancing method", balancing, METHODS)):
        if unknown := sorted(set(names) - set(known)):
            raise StudyError(f"{kind} {', '.join(unknown)}: not known; expected some of {', '.join(known)}")
    recipes = {f"{recipe.sharing.mode}, {recipe.balancing.method}": recipe}
    target = count_parameters(model_config(recipe), codec)
    for mode in dict.fromkeys(sharing):
        if mode != recipe.sharing.mode:
            recipes[mode] = _in_mode(recipe, codec, mode, target)
    for method in dict.fromkeys(balancing):
        if method != recipe.balancing.method:
            recipes[method] = recipe.model_copy(update={"balancing": recipe.balancing.replace(method=method)})
    return recipes


def _in_mode(recipe: Recipe, codec: Codec, mode: str, target: int) -> Recipe:
    changed = recipe.model_copy(update={"sharing": recipe.sharing.replace(mode=mode)})
    try:
        fitted = fit_size(model_config(changed), codec, target)
    except ValueError as error:
        raise StudyError(str(error)) from error
    fitting = replace(recipe.model, blocks=fitted.blocks, hidden=fitted.hidden)
    return changed.model_copy(update={"model": fitting})


def result_of(studies: Mapping[str, Study]) -> StudyResult:
    """Compares the variants of `study_variants`.

    Figures: metrics and single (the single-task model's value) by task; rows, one for each variant, the unchanged
    recipe first: variant, kind ("recipe", "sharing" or "balancing"), blocks, hidden (None: the recipe's), parameters,
    seconds (of one model, mean over seeds), values (by task, percent), gains (by task, over the single-task model),
    mean (delta_m, the mean of those gains), over (the same mean over the unchanged recipe; None for itself).

    Raises:
        StudyError: they were not scored on the same rows.
    """
    base = Comparison(next(iter(studies.values())))
    study = base.study
    single = {task: rounded(base.draws[base.alone(task), task][0]) for task in study.tasks}
    rows = [_figures(name, one, base) for name, one in studies.items()]
    table = _table(rows, base.metrics, single)
    return StudyResult.of(
        list(studies.values()),
        kind="variants",
        heading="sharing modes and balancing methods",
        summary=f"{len(rows)} joint models of {', '.join(study.tasks)}",
        table_title=(f"joint models by sharing mode and balancing method, %, on {study.rows:,} {study.split} rows"),
        rows=table,
        notes=[
            "No variant is tuned: learning rate and task weights are the recipe's, which favours the unchanged recipe.",
            "Sharing modes are as large as the recipe's own model within 3 %: a mode with several encoders has "
            "shallower or narrower ones.",
            SAME_BUDGET,
            ONE_IN_TWENTY,
            *dependency_notes(study, study.tasks),
        ],
        figures={
            "metrics": base.metrics,
            "carriers": {task: sorted(base.alone(task) - {task}) for task in study.tasks},
            "single": single,
            "rows": rows,
        },
        sections=_sections(rows, table, base.metrics),
    )


def _figures(name: str, study: Study, base: Comparison) -> dict[str, Any]:
    unchanged = study is base.study
    comparison = base if unchanged else Comparison(study)
    if comparison.rows != base.rows:
        raise StudyError(f"the variant {name!r} was scored on other rows than the unchanged recipe")
    draws = {task: comparison.draws[study.joint, task] for task in study.tasks}
    gains = {task: base.over(draws[task], base.alone(task), task) for task in study.tasks}
    over = {task: base.over(draws[task], base.study.joint, task) for task in study.tasks}
    records = [study.record(study.joint, seed) for seed in study.seeds]
    other_mode = study.recipe.sharing.mode != base.study.recipe.sharing.mode
    return {
        "variant": name,
        "kind": "recipe" if unchanged else "sharing" if other_mode else "balancing",
        "blocks": study.recipe.model.blocks,
        "hidden": study.recipe.model.hidden,
        "parameters": records[0]["parameters"],
        "seconds": round(float(np.mean([record["seconds"] for record in records])), 1),
        "values": {task: rounded(values[0]) for task, values in draws.items()},
        "gains": {task: change_of(gain) for task, gain in gains.items()},
        "mean": _mean(gains),
        "over": None if unchanged else _mean(over),
    }


def _mean(gains: Mapping[str, np.ndarray]) -> Change | None:
    usable = [draws for draws in gains.values() if np.isfinite(draws[0])]
    return change_of(np.mean(usable, axis=0)) if usable else None


def _by_gain(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(rows, key=lambda row: -((row["mean"] or NO_CHANGE)["gain"] or 0.0))


def _table(
    rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, str], single: Mapping[str, float | None]
) -> list[dict[str, Any]]:
    """The best mean gain first, the single-task models last."""
    table = [
        {
            "joint model": row["variant"],
            "parameters": f"{row['parameters']:,}",
            "seconds": f"{row['seconds']:.0f}",
            **{metrics[task]: unsigned(value) for task, value in row["values"].items()},
            GAIN: row["mean"] or NO_CHANGE,
            "than the recipe, %": row["over"] or "",
        }
        for row in _by_gain(rows)
    ]
    values = {metrics[task]: unsigned(value) for task, value in single.items()}
    return [*table, {**dict.fromkeys(table[0], ""), "joint model": "each task alone", **values}]


def _sections(
    rows: Sequence[Mapping[str, Any]], table: Sequence[Mapping[str, Any]], metrics: Mapping[str, str]
) -> list[Section]:
    gains = [
        {
            "joint model": row["variant"],
            "differs in": "" if row["kind"] == "recipe" else row["kind"],
            "blocks": row["blocks"],
            **{metrics[task]: change for task, change in row["gains"].items()},
        }
        for row in _by_gain(rows)
    ]
    caption = "Relative, positive for better. Small figures: 95 % intervals by a bootstrap over rows and seeds."
    return [
        Section("Scores, cost, and mean gain over single-task models", tables=[Table(table)], caption=caption),
        Section("Gain of each task over its single-task model, %", tables=[Table(gains, text=2)]),
    ]
