"""What a study found, in numbers, in plain words, and as a page that needs nothing else.

    findings = findings_of(study)       # plain data; findings.to_json() goes into the store and to MLflow
    html = render(findings)

Gains are relative to the single-task model, in percent, positive for better (mtl/analysis/transfer.py), by the
first metric of
METRICS that every model with the task was scored on. Intervals are of a bootstrap over rows and seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mtl.analysis.transfer import Tasks, groupings, relative_gain, suggested
from mtl.metrics.bootstrap import RESAMPLES, Estimate, estimate, pigeonhole_bootstrap
from mtl.metrics.scoring import METRICS, Metric
from pipelines.evaluation.evaluate import Scores
from pipelines.report import charts
from pipelines.report.builder import SYNTHETIC as SPOKEN
from pipelines.report.page import SYNTHETIC, environment
from pipelines.study.cells import Study, StudyError, closed

TOOLTIP = "training with {row} changes {column} by {value}"
Change = dict[str, float | None]  # gain, low, high in percent; None where there is nothing to divide by


@dataclass(frozen=True)
class Findings:
    """Everything that the page shows. All of it is plain data.

    gains: a row each model and task: cell, task, metric, value, single, gain, low, high. means: delta_m of each model.
    matrix[i][j]: what training with i does to j, beside what j and i need; left_out[i][j]: what i adds to the
    joint model for j. None: not measured. groups: a row for each number of models.
    """

    identity: str
    recipe: str
    recipe_yaml: str
    split: str
    rows: int
    share: float
    seeds: list[int]
    epochs: int
    steps: int
    synthetic: bool
    tasks: list[str]
    metrics: dict[str, str]
    gains: list[dict[str, Any]]
    means: list[dict[str, Any]]
    matrix: dict[str, dict[str, Change | None]]
    left_out: dict[str, dict[str, Change | None]]
    groups: list[dict[str, Any]]
    advice: dict[str, str]
    notes: list[str]
    cells: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Findings:
        return cls(**content)


def findings_of(study: Study) -> Findings:
    """Raises StudyError when some task was not scored at all."""
    table = Measured(study)
    groups = table.groups()
    records = [[study.record(cell, seed) for seed in study.seeds] for cell in study.cells]
    return Findings(
        identity=study.identity,
        recipe=study.recipe.name,
        recipe_yaml=study.recipe.to_yaml(),
        split=study.split,
        rows=study.rows,
        share=study.share,
        seeds=list(study.seeds),
        epochs=study.recipe.trainer.epochs,
        steps=records[0][0]["steps"],
        synthetic=any(corpus.kind == SPOKEN for corpus in study.recipe.corpora),
        tasks=list(study.tasks),
        metrics=table.metrics,
        gains=table.gains(),
        means=table.means(),
        matrix={i: {j: plain(table.change(i, j)) for j in study.tasks} for i in study.tasks},
        left_out={i: {j: plain(table.left_out(i, j)) for j in study.tasks} for i in study.tasks},
        groups=groups,
        advice={task: table.advice(task) for task in study.tasks},
        notes=_notes(study, table),
        cells=[
            {
                "cell": study.name(cell),
                "parameters": runs[0]["parameters"],
                "seconds": round(float(np.mean([run["seconds"] for run in runs])), 1),
                "device": runs[0]["device"],
            }
            for cell, runs in zip(study.cells, records, strict=True)
        ],
    )


class Measured:
    """The cells' scores, resampled together: every gain is made from the same draws of rows and seeds.

    rows: ids of the rows that were drawn from; another study of the same rows and seeds has the same draws.
    """

    def __init__(self, study: Study, resamples: int = RESAMPLES) -> None:
        self.study = study
        scores = {(cell, seed): study.scores(cell, seed) for cell in study.cells for seed in study.seeds}
        self.metrics = {task: _metric(task, study, scores) for task in study.tasks}
        ids = sorted({row for one in scores.values() for metric in self.metrics.values() for row in _ids(one, metric)})
        place = {row: position for position, row in enumerate(ids)}
        counts: dict[tuple[Tasks, str], np.ndarray] = {}
        metrics: dict[tuple[Tasks, str], Metric] = {}
        for cell in study.cells:
            for task in cell:
                metrics[cell, task] = METRICS[self.metrics[task]]
                counts[cell, task] = np.stack(
                    [_spread(scores[cell, seed], self.metrics[task], place) for seed in study.seeds]
                )
        self.rows = ids
        self.draws = pigeonhole_bootstrap(counts, metrics, resamples)

    def alone(self, *tasks: str) -> Tasks:
        return closed(frozenset(tasks), self.study.needs)

    def relative(self, cell: Tasks, base: Tasks, task: str) -> np.ndarray | None:
        """Draws of what `task` gains in `cell` against `base`; None where that is one cell, or one is missing."""
        if cell == base or (cell, task) not in self.draws or (base, task) not in self.draws:
            return None
        better = METRICS[self.metrics[task]].better
        return relative_gain(self.draws[cell, task], self.draws[base, task], better)

    def gain(self, cell: Tasks, task: str) -> np.ndarray | None:
        """Draws of the gain against the single-task model: zero for that one itself; None if it was not trained."""
        if cell == self.alone(task):
            return np.zeros_like(self.draws[cell, task])
        return self.relative(cell, self.alone(task), task)

    def change(self, i: str, j: str) -> np.ndarray | None:
        """What training with i does to j. What i needs is there on both sides, so that it is not taken for i's."""
        if i == j:
            return None
        return self.relative(self.alone(i, j), self.alone(j, *self.study.needs[i]), j)

    def left_out(self, i: str, j: str) -> np.ndarray | None:
        """What i adds to the joint model for j: the joint model against that without i."""
        without = closed(self.study.joint - {i}, self.study.needs)
        return None if i == j else self.relative(self.study.joint, without, j)

    def estimated(self, cell: Tasks, task: str) -> np.ndarray | None:
        """The gain as measured, else the mean of its pairs' (as in Standley et al. 2020); None without them."""
        known = self.gain(cell, task)
        if known is not None or cell in self.study.cells:
            return known
        parts = [self.change(other, task) for other in cell - self.alone(task)]
        usable = [part for part in parts if part is not None]
        return np.mean(usable, axis=0) if parts and len(usable) == len(parts) else None

    def gains(self) -> list[dict[str, Any]]:
        found = []
        for cell in self.study.cells:
            for task in self.study.tasks:
                draws = self.relative(cell, self.alone(task), task) if task in cell else None
                if draws is not None:
                    found.append(
                        {
                            "cell": self.study.name(cell),
                            "task": task,
                            "metric": self.metrics[task],
                            "value": _number(self.draws[cell, task][0]),
                            "single": _number(self.draws[self.alone(task), task][0]),
                            **(plain(draws) or {}),
                        }
                    )
        return found

    def means(self) -> list[dict[str, Any]]:
        """delta_m of each cell: over those of its tasks that it is not the single-task model of."""
        found = []
        for cell in self.study.cells:
            parts = [draws for task in cell if (draws := self.relative(cell, self.alone(task), task)) is not None]
            if parts:
                found.append(
                    {"cell": self.study.name(cell), "tasks": len(parts), **(plain(np.mean(parts, axis=0)) or {})}
                )
        return found

    def groups(self) -> list[dict[str, Any]]:
        found = groupings(self.study.tasks, self.estimated, lambda tasks: closed(tasks, self.study.needs))
        chosen = suggested(found) if found else None
        return [
            {
                "models": [
                    {
                        "serves": list(model.serves),
                        "trains": list(model.trains),
                        "measured": frozenset(model.trains) in self.study.cells,
                    }
                    for model in grouping.models
                ],
                "suggested": grouping is chosen,
                **(plain(grouping.draws) or {}),
            }
            for grouping in found
        ]

    @cached_property
    def measured(self) -> dict[str, dict[Tasks, Estimate]]:
        """By task, the estimate of each cell that trains it with others."""
        return {
            task: {
                cell: estimate(draws)
                for cell in self.study.cells
                if task in cell and (draws := self.relative(cell, self.alone(task), task)) is not None
            }
            for task in self.study.tasks
        }

    def advice(self, task: str) -> str:
        """What the study says about one task, in a sentence."""
        cells = {cell: found for cell, found in self.measured[task].items() if math.isfinite(found.value)}
        if not cells:
            return f"{task}: nothing can be said; see the notes."
        helped = {cell: found for cell, found in cells.items() if found.sign > 0}
        joint = cells.get(self.study.joint)
        harmed = joint.sign < 0 if joint else all(found.sign < 0 for found in cells.values())
        among = f"joint training changes it by {_told(joint)}" if joint else "every set that was tried makes it worse"
        if helped and not (joint and joint.sign > 0):
            best = max(helped, key=lambda cell: helped[cell].value)
            others = ", ".join(other for other in self.study.tasks if other in best - {task})
            told = f"{task}: train it with {others}, from which it gains {_told(helped[best])}"
            return f"{told}; {among}." if joint else f"{told}."
        if joint and joint.sign > 0:
            return f"{task}: train it jointly; {among}."
        if harmed:
            return f"{task}: train it alone; {among}, and no set that was tried is shown to help it."
        told = f"; {among}" if joint else ""
        return f"{task}: no set that was tried is shown to help it or to harm it in joint training{told}."


def _metric(task: str, study: Study, scores: Mapping[tuple[Tasks, int], Scores]) -> str:
    cells = [one for (cell, _), one in scores.items() if task in cell]
    for name in METRICS:
        if name.split("/")[0] == task and all(name in one.counts for one in cells):
            return name
    raise StudyError(f"no {study.split} row gave a figure for the task {task!r}; remove tasks.{task}, or add such rows")


def _ids(scores: Scores, metric: str) -> Sequence[str]:
    return scores.counts[metric].ids if metric in scores.counts else ()


def _spread(scores: Scores, metric: str, place: Mapping[str, int]) -> np.ndarray:
    """(N, C) counts over all rows, zeros where a row is not labelled."""
    rows = scores.counts[metric]
    counts = np.asarray(rows.counts, dtype=np.float64)
    found = np.zeros((len(place), counts.shape[1]))
    found[[place[row] for row in rows.ids]] = counts
    return found


def plain(draws: np.ndarray | None) -> Change | None:
    """Draws (1 + R,) of a gain as it is stored."""
    if draws is None:
        return None
    found = estimate(draws)
    return {"gain": _number(found.value), "low": _number(found.low), "high": _number(found.high)}


def _number(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


def _told(found: Estimate | None) -> str:
    return "" if found is None else f"{found.value:+.1f} % ({found.low:+.1f} … {found.high:+.1f})"


def _notes(study: Study, table: Measured) -> list[str]:
    notes = [
        f"Scored on the {study.split} split; each cell's last epoch, the recogniser's best path.",
        "All cells took the same steps on the same batches. A row without a label of a cell's tasks stays in its batch "
        "and trains nothing there.",
        "Of twenty intervals of 95 %, one excludes zero by chance; the best of many groupings is partly luck.",
    ]
    if study.recipe.decoding.reread:
        notes.append(
            "Cells with the transcript read what they heard again (decoding.reread): part of what it gives others."
        )
    if len(study.seeds) < 3:
        notes.append(f"{len(study.seeds)} seed(s): the intervals say little or nothing of how much a seed matters.")
    if study.share < 1:
        notes.append(f"Trained on {100 * study.share:g} % of the training rows.")
    for task, config in study.recipe.tasks.items():
        if config.labels < 1:
            notes.append(f"{task}: {100 * config.labels:g} % of its training labels were kept.")
    for task, needed in study.needs.items():
        if needed:
            carriers = " and ".join(sorted(needed))
            notes.append(
                f"{task} on audio needs {carriers}, which says where the words are: every cell with {task} trains "
                f"{carriers} too, its single-task model as well; what {carriers} does for {task} is not measured."
            )
    for task in study.tasks:
        if table.draws[table.alone(task), task][0] == 0:
            notes.append(
                f"{task}: {table.metrics[task]} of the single-task model is 0, so no change is relative to it."
            )
    return notes


def render(findings: Findings) -> str:
    """The page."""
    from markupsafe import Markup

    maps = {name: Markup(_heat_map(findings.tasks, getattr(findings, name))) for name in ("matrix", "left_out")}
    return environment().get_template("study.html.j2").render(study=findings, maps=maps, note=SYNTHETIC)


def _heat_map(tasks: Sequence[str], matrix: Mapping[str, Mapping[str, Change | None]]) -> str:
    values: list[list[float | None]] = []
    sure: list[list[bool]] = []
    for i in tasks:
        cells = [matrix[i][j] or {"gain": None, "low": None, "high": None} for j in tasks]
        values.append([cell["gain"] for cell in cells])
        sure.append([_excludes_zero(cell["low"], cell["high"]) for cell in cells])
    measured = any(value is not None for line in values for value in line)
    return charts.heat_map(tasks, values, sure, TOOLTIP) if measured else ""


def _excludes_zero(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and (low > 0 or high < 0)
