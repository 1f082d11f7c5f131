"""Cross-validation over speakers: joint and single-task models, with each speaker held out once.

    studies = study_by_folds(context, folds=0)    # 0: leave one speaker out
    result = result_of(studies)

Speakers are divided into folds (recipe.fold). Each fold is a study (study.py) of the joint model and of single tasks,
scored on the speakers of the fold. The answers of all folds are pooled, as usual for small emotional corpora: each
recording is answered once, by a model that was not trained on its speaker. The last epoch is scored, so no choice
depends on the held-out speakers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl.analysis.transfer import Tasks
from mtl.metrics.bootstrap import estimate, pigeonhole_bootstrap
from mtl.metrics.rates import balanced, ratio
from mtl.spec import task as task_spec
from pipelines.data.dataset import open_dataset
from pipelines.recipe import Recipe
from pipelines.report.charts import confusion_chart
from pipelines.stages.context import Context
from pipelines.study.cells import Study, StudyError, closed, planned
from pipelines.study.options import SEEDS
from pipelines.study.result import Chart, Section, StudyResult, Table
from pipelines.study.study import train_missing
from pipelines.training.folds import speakers_of

if TYPE_CHECKING:
    from pipelines.core.progress import Report
    from pipelines.registry.tracking import Run

JOINT, ALONE = "joint", "alone"


def study_by_folds(
    context: Context,
    folds: int = 0,
    seeds: int = SEEDS,
    tracking: Run | None = None,
    progress: Report | None = None,
) -> list[Study]:
    """A finished study for each fold: the joint model, and alone each task that `confusion_rows` has.

    folds: how many; 0: as many as there are speakers.

    Raises:
        StudyError: fewer speakers than folds, a single fold, or an error of `planned` or `train_missing`.
    """
    recipe = context.recipe
    speakers = speakers_of(open_dataset(context.store, context.utterances, context.features).rows)
    folds = folds or len(speakers)
    if not 2 <= folds <= len(speakers):
        raise StudyError(f"{folds} folds of {len(speakers)} speakers; expected at least 2, and at most one per speaker")
    alone = confusion_rows(str(task) for task in recipe.tasks)
    studies = [
        planned(
            context.with_recipe(with_fold(recipe, number, folds)), seeds, ("joint",), alone=alone,
            variant=f"fold-{number}",
        )
        for number in range(folds)
    ]  # fmt: skip
    train_missing(studies, tracking, progress)
    return studies


def confusion_rows(tasks: Iterable[str]) -> list[str]:
    """Tasks whose labels also apply to new speakers, which excludes speaker identification."""
    specs = [task_spec(task) for task in tasks]
    return [spec.name for spec in specs if spec.answer == "label" and not spec.open_set]


def with_fold(recipe: Recipe, number: int, folds: int) -> Recipe:
    """The recipe with that fold's speakers held out."""
    return recipe.model_copy(update={"fold": (number, folds)})


@dataclass(frozen=True)
class _Answers:
    """One task's answers of one cell over all folds: speakers (N,), and for each seed labels and predictions (S, N)."""

    speakers: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray


def result_of(studies: Sequence[Study]) -> StudyResult:
    """Pools the answers of all folds.

    Figures: rows, one for each task and JOINT or ALONE: task, model, trained (the cell's name), accuracy and recall
    (unweighted average recall over labels), each with low and high, percent, means over seeds, with intervals of a
    bootstrap over speakers and seeds. by_speaker: of the joint model, by task: speaker, rows, accuracy. confusion: of
    the joint model, summed over seeds, by task: labels, counts. folds, speakers, recordings: how many.

    Raises:
        StudyError: no task has labels that also apply to new speakers.
    """
    first = studies[0]
    rows, by_speaker, confusion = [], {}, {}
    for task in confusion_rows(first.tasks):
        alone = closed(frozenset({task}), first.needs)
        for model, cell in ((JOINT, first.joint), (ALONE, alone)):
            answers = _answers(studies, cell, task)
            if answers is None:
                continue
            rows.append({"task": task, "model": model, "trained": first.name(cell), **_figures(answers)})
            if model == JOINT:
                by_speaker[task] = _by_speaker(answers)
                confusion[task] = _confusion(answers)
    if not rows:
        raise StudyError(f"none of {', '.join(first.tasks)} classifies recordings of speakers outside the training set")
    recordings = max(sum(line["rows"] for line in lines) for lines in by_speaker.values())
    speakers = max(map(len, by_speaker.values()))
    return StudyResult.of(
        studies,
        kind="folds",
        heading="scores on held-out speakers",
        summary=f"{speakers} speakers in {len(studies)} folds",
        scored=recordings,
        split="held-out",
        table_title=f"{recordings:,} recordings of {speakers} speakers, each held out once",
        rows=_table(rows),
        notes=["The last epoch of each model is scored, so no choice depends on the held-out speakers."],
        figures={
            "folds": len(studies),
            "speakers": speakers,
            "recordings": recordings,
            "rows": rows,
            "by_speaker": by_speaker,
            "confusion": confusion,
        },
        sections=_sections(_table(rows), by_speaker, confusion),
    )


def _answers(studies: Sequence[Study], cell: Tasks, task: str) -> _Answers | None:
    speakers: list[str] = []
    labels: list[list[str]] = [[] for _ in studies[0].seeds]
    predictions: list[list[str]] = [[] for _ in studies[0].seeds]
    for study in studies:
        for index, seed in enumerate(study.seeds):
            for reference, prediction in study.scores(cell, seed).answers():
                if reference.get(task) is not None and task in prediction:
                    labels[index].append(reference[task])
                    predictions[index].append(prediction[task]["value"])
                    if index == 0:
                        speakers.append(reference["speaker"])
    return _Answers(np.array(speakers), np.array(labels), np.array(predictions)) if speakers else None


def _figures(answers: _Answers) -> dict[str, float]:
    """Accuracy and recall, means over seeds, with their intervals: speakers and seeds are drawn with replacement."""
    names, speakers = np.unique(answers.labels), np.unique(answers.speakers)
    # (S, speakers, labels): correct answers, and rows.
    correct, total = np.zeros((2, len(answers.labels), len(speakers), len(names)))
    speaker = np.searchsorted(speakers, answers.speakers)
    for seed, (labels, predictions) in enumerate(zip(answers.labels, answers.predictions, strict=True)):
        label = np.searchsorted(names, labels)
        np.add.at(total[seed], (speaker, label), 1)
        np.add.at(correct[seed], (speaker, label), labels == predictions)
    counts = {
        "accuracy": np.stack((correct.sum(axis=2), total.sum(axis=2)), axis=2),
        "recall": np.concatenate((correct, total), axis=2),
    }
    figures: dict[str, float] = {}
    for name, draws in pigeonhole_bootstrap(counts, {"accuracy": ratio, "recall": balanced}).items():
        interval = estimate(draws)
        figures |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return figures


def _by_speaker(answers: _Answers) -> list[dict[str, Any]]:
    correct = (answers.labels == answers.predictions).mean(axis=0)
    own = {str(name): answers.speakers == name for name in np.unique(answers.speakers)}
    return [
        {"speaker": name, "rows": int(rows.sum()), "accuracy": float(100 * correct[rows].mean())}
        for name, rows in own.items()
    ]


def _confusion(answers: _Answers) -> dict[str, Any]:
    names = sorted({*answers.labels.flat, *answers.predictions.flat})
    counts = [
        [int(((answers.labels == label) & (answers.predictions == prediction)).sum()) for prediction in names]
        for label in names
    ]
    return {"labels": [str(name) for name in names], "counts": counts}


def _table(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    def interval(row: dict[str, Any], name: str) -> str:
        return f"{row[name]:.1f} ({row[f'{name}_low']:.1f}-{row[f'{name}_high']:.1f})"

    return [
        {
            "task": row["task"],
            "model": row["model"],
            "trained together": row["trained"],
            "unweighted recall, %": interval(row, "recall"),
            "accuracy, %": interval(row, "accuracy"),
        }
        for row in rows
    ]


def _sections(
    table: Sequence[dict[str, str]],
    by_speaker: dict[str, list[dict[str, Any]]],
    confusion: dict[str, dict[str, Any]],
) -> list[Section]:
    caption = (
        "Unweighted recall: the mean of the labels' recalls, however frequent each is. Intervals by a bootstrap over "
        "speakers and seeds; few speakers make them wide."
    )
    sections = [Section("Joint and single-task models", tables=[Table(table, text=3)], caption=caption)]
    for task, lines in by_speaker.items():
        svg = confusion_chart(**confusion[task])
        speakers = [
            {"speaker": row["speaker"], "recordings": row["rows"], "accuracy, %": f"{row['accuracy']:.1f}"}
            for row in lines
        ]
        caption = "Rows: labels. Columns: predictions. Summed over seeds."
        sections.append(Section(f"Confusion of {task}, joint model", charts=[Chart("", svg, caption)]))
        sections.append(Section(f"{task} by speaker", tables=[Table(speakers)]))
    return sections
