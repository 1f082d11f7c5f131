"""Transfer between tasks: gains over single-task models of tasks trained in pairs, all together, and each left out.

result = result_of(study)       # gains, a matrix of effects, groupings of tasks into models, recommendations
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtl.analysis.transfer import groupings, suggested
from mtl.metrics.bootstrap import Estimate, estimate
from mtl.metrics.scoring import in_unit
from pipelines.report.charts import Cell, grid_chart
from pipelines.study.cells import Study, closed
from pipelines.study.comparison import NO_CHANGE, Change, Comparison, change_of, rounded
from pipelines.study.result import GAIN, ONE_IN_TWENTY, Chart, Section, StudyResult, Table, signed

Matrix = Mapping[str, Mapping[str, Change | None]]


def result_of(study: Study) -> StudyResult:
    """Compares the cells of a study.

    Figures: gains (a row for each model and task), means (delta_m of each model); matrix[i][j]: effect of training
    with i on j, beside what both need; left_out[i][j]: what i adds to the joint model for j (None: not measured);
    groups (a row for each number of models), advice by task, and cells with their costs.

    Raises:
        StudyError: some task was not scored at all.
    """
    comparison = Comparison(study)
    records = [[study.record(cell, seed) for seed in study.seeds] for cell in study.cells]
    figures = {
        "identity": study.identity,
        "rows": study.rows,
        "steps": records[0][0]["steps"],
        "metrics": comparison.metrics,
        "gains": gains(comparison),
        "means": means(comparison),
        "matrix": {i: {j: change_of(comparison.change(i, j)) for j in study.tasks} for i in study.tasks},
        "left_out": {i: {j: change_of(comparison.left_out(i, j)) for j in study.tasks} for i in study.tasks},
        "groups": groups(comparison),
        "advice": {task: advice(comparison, task) for task in study.tasks},
        "cells": [
            {
                "cell": study.name(cell),
                "parameters": runs[0]["parameters"],
                "seconds": round(float(np.mean([run["seconds"] for run in runs])), 1),
                "device": runs[0]["device"],
            }
            for cell, runs in zip(study.cells, records, strict=True)
        ],
    }
    return StudyResult.of(
        [study],
        kind="study",
        heading="transfer between tasks",
        summary=f"{len(study.cells)} models, {figures['steps']:,} steps each",
        table_title=f"gain over single-task models, % of their own figure, on {study.rows:,} {study.split} rows",
        rows=table_rows(figures),
        lines=[*figures["advice"].values(), "", *map(_group_line, figures["groups"])],
        notes=_notes(comparison),
        figures=figures,
        sections=sections(figures),
    )


def gains(comparison: Comparison) -> list[dict[str, Any]]:
    study, rows = comparison.study, []
    for cell in study.cells:
        for task in study.tasks:
            base = comparison.alone(task)
            draws = comparison.relative(cell, base, task) if task in cell else None
            if draws is not None:
                values = {"value": comparison.draws[cell, task][0], "single": comparison.draws[base, task][0]}
                named = {"cell": study.name(cell), "task": task, "metric": comparison.metrics[task]}
                rows.append({**named, **{key: rounded(value) for key, value in values.items()}, **_change(draws)})
    return rows


def means(comparison: Comparison) -> list[dict[str, Any]]:
    """delta_m of each cell, over those of its tasks that it is not the single-task model of."""
    rows = []
    for cell in comparison.study.cells:
        gains_of = [comparison.relative(cell, comparison.alone(task), task) for task in cell]
        parts = [draws for draws in gains_of if draws is not None]
        if parts:
            name = comparison.study.name(cell)
            rows.append({"cell": name, "tasks": len(parts), **_change(np.mean(parts, axis=0))})
    return rows


def groups(comparison: Comparison) -> list[dict[str, Any]]:
    """The best grouping of the tasks for each number of models."""
    study = comparison.study
    best = groupings(study.tasks, comparison.estimated, lambda tasks: closed(tasks, study.needs))
    chosen = suggested(best) if best else None
    return [
        {
            "models": [
                {
                    "serves": list(model.serves),
                    "trains": list(model.trains),
                    "measured": frozenset(model.trains) in study.cells,
                }
                for model in grouping.models
            ],
            "suggested": grouping is chosen,
            **_change(grouping.draws),
        }
        for grouping in best
    ]


def _change(draws: np.ndarray) -> Change:
    return change_of(draws) or NO_CHANGE


def advice(comparison: Comparison, task: str) -> str:
    """A recommendation for one task, in a sentence."""
    study = comparison.study
    known = {cell: comparison.relative(cell, comparison.alone(task), task) for cell in study.cells if task in cell}
    estimates = {cell: estimate(draws) for cell, draws in known.items() if draws is not None}
    estimates = {cell: one for cell, one in estimates.items() if math.isfinite(one.value)}
    if not estimates:
        return f"{task}: no recommendation; see the notes."
    joint = estimates.get(study.joint)
    change = f"joint training changes it by {_interval(joint)}" if joint else ""
    if joint and joint.sign > 0:
        return f"{task}: train it jointly; {change}."
    helpful = {cell: one for cell, one in estimates.items() if one.sign > 0}
    if helpful:
        best = max(helpful, key=lambda cell: helpful[cell].value)
        others = ", ".join(other for other in study.tasks if other in best - {task})
        gain = f"{task}: train it with {others}, from which it gains {_interval(helpful[best])}"
        return f"{gain}; {change}." if joint else f"{gain}."
    if joint.sign < 0 if joint else all(one.sign < 0 for one in estimates.values()):
        reason = change or "every set that was tried makes it worse"
        return f"{task}: train it alone; {reason}, and no set that was tried is shown to help it."
    tail = f"; {change}" if joint else ""
    return f"{task}: no set that was tried is shown to help it or to harm it in joint training{tail}."


def _interval(change: Estimate) -> str:
    return f"{change.value:+.1f} % ({change.low:+.1f} … {change.high:+.1f})"


def _notes(comparison: Comparison) -> list[str]:
    study = comparison.study
    notes = [
        f"Scored on the {study.split} split: the last epoch of each cell, with greedy decoding.",
        "All cells took the same steps on the same batches. A row without a label of a cell's tasks stays in its batch "
        "and trains nothing there.",
        ONE_IN_TWENTY,
    ]
    if study.recipe.decoding.reread:
        notes.append(
            "Cells with the transcript also read recognised words (decoding.reread), which is part of its effect."
        )
    for task, config in study.recipe.tasks.items():
        if config.labels < 1:
            notes.append(f"{task}: trained on {100 * config.labels:g} % of its labels.")
    for task, needed in study.needs.items():
        if needed:
            carriers = " and ".join(sorted(needed))
            notes.append(
                f"{task} on audio needs {carriers}, which aligns words with the audio: every cell with {task} trains "
                f"{carriers} too, its single-task model as well; the effect of {carriers} on {task} is not measured."
            )
    for task in study.tasks:
        if comparison.draws[comparison.alone(task), task][0] == 0:
            metric = comparison.metrics[task]
            notes.append(f"{task}: {metric} of the single-task model is 0, so no change is relative to it.")
    return notes


def table_rows(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table of gains, then the means over tasks."""
    rows = []
    for row in [*figures["gains"], *figures["means"]]:
        metric = row.get("metric")
        value, single = (in_unit(metric, row[name]) if metric else "" for name in ("value", "single"))
        named = {"trained together": row["cell"], "metric": metric or "mean of tasks"}
        rows.append({**named, "value": value, "single": single, GAIN: row})
    return rows


def _group_line(group: Mapping[str, Any]) -> str:
    mark = "  <- suggested" if group["suggested"] else ""
    models = " | ".join(map(_model, group["models"]))
    return f"{len(group['models'])} model(s), mean gain {signed(group['gain'])} %: {models}{mark}"


def _model(model: Mapping[str, Any]) -> str:
    beside = [task for task in model["trains"] if task not in model["serves"]]
    text = ", ".join(model["serves"]) + (f" (training {', '.join(beside)} beside)" if beside else "")
    return text if model["measured"] else f"{text} [estimated from pairs]"


def sections(figures: Mapping[str, Any]) -> list[Section]:
    """Sections of the page."""
    suggestions = [
        {
            "models": " · ".join(map(_model, group["models"])),
            "": "suggested" if group["suggested"] else "",
            "mean gain, %": group,
        }
        for group in figures["groups"]
    ]
    caption = (
        "The best grouping for each number of models, by exhaustive search. Suggested: the fewest models that are not "
        "significantly worse than the best grouping."
    )
    titles = {
        "matrix": "training with the row's task changes the column's by, %",
        "left_out": "in the joint model, the row's task adds to the column's, %",
    }
    charts = [Chart(title, svg) for name, title in titles.items() if (svg := transfer_chart(figures[name]))]
    transfer = Section(
        "Transfer between tasks",
        charts=charts,
        caption="Left, over the column's task alone; right, the joint model over the one without the row's task. "
        "Positive is better. A star: the 95 % interval excludes zero. A dash: not measured.",
    )
    gain_caption = (
        "The change of each task's own metric relative to its single-task model, positive for better; their mean is Δm "
        "(Maninis et al. 2019). Means over seeds, 95 % intervals by a bootstrap over rows and seeds."
    )
    rows = table_rows(figures)
    return [
        Section("Recommendations", list(figures["advice"].values()),
                tables=[Table(suggestions, "Task groups", 2, caption)] if suggestions else []),
        *([transfer] if charts else []),
        Section("Gain over single-task models", tables=[Table(rows, text=2)] if rows else [], caption=gain_caption),
        Section("Cost", tables=[Table(figures["cells"])], caption="Seconds of one model, mean over seeds."),
    ]  # fmt: skip


def transfer_chart(matrix: Matrix) -> str:
    """Effects of rows on columns, shaded by size; a star: the interval excludes zero. Empty without a value."""
    changes = [[change or NO_CHANGE for change in line.values()] for line in matrix.values()]
    values = [abs(change["gain"]) for line in changes for change in line if change["gain"] is not None]
    if not values:
        return ""

    def cell(row: str, column: str, change: Change) -> Cell | None:
        gain, low, high = (change[key] for key in ("gain", "low", "high"))
        if gain is None:
            return None
        star = "*" if low is not None and high is not None and (low > 0 or high < 0) else ""
        tooltip = f"training with {row} changes {column} by {gain:+.1f} %"
        return Cell(gain / (max(values) or 1.0), f"{gain:+.1f}{star}", tooltip)

    tasks = list(matrix)
    cells = [
        [cell(row, column, change) for column, change in zip(tasks, line, strict=True)]
        for row, line in zip(tasks, changes, strict=True)
    ]
    return grid_chart(tasks, tasks, cells)
