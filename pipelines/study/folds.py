"""Every speaker held out once: what a model is worth on people it never heard, where a corpus has few of them.

    studies = study_by_folds(recipe, utterances, features, store, folds=0)     # 0: leave one speaker out
    found = pooled_of(studies)                                                 # plain data
    html = render(found)

Speakers are dealt into folds (recipe.fold). For each fold a study (study.py) of the joint model and of tasks alone,
scored on the fold's speakers, whom it did not hear; its cells are those of any study of that recipe. The answers
of all folds are pooled, as is usual for small emotional corpora: each recording is answered once, by the one model that
did not hear its speaker. The last epoch is scored, so nothing is chosen by the speakers that are held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl.analysis.transfer import Tasks
from mtl.metrics.bootstrap import estimate, pigeonhole_bootstrap
from mtl.metrics.scoring import METRICS
from mtl.spec import task as task_spec
from pipelines.data.dataset import open_dataset
from pipelines.recipe import Recipe
from pipelines.report import charts
from pipelines.report.builder import SYNTHETIC as SPOKEN
from pipelines.report.page import SYNTHETIC, environment
from pipelines.storage.store import Manifest, Store
from pipelines.study.cells import Study, StudyError, closed, planned
from pipelines.study.study import train_missing
from pipelines.study.table import SEEDS
from pipelines.training.folds import speakers_of

if TYPE_CHECKING:
    from pipelines.core.progress import Report
    from pipelines.registry.tracking import Run

JOINT, ALONE = "joint", "alone"


@dataclass(frozen=True)
class Pooled:
    """Everything that the page shows. All of it is plain data.

    rows: one for each task and JOINT or ALONE: task, trained (the cell's name), model, accuracy and recall (of each
    label alike: the unweighted average recall), each with low and high, percent, means over seeds; the intervals are of
    a bootstrap over speakers and seeds. by_speaker: of the joint model, by task: speaker, rows, accuracy.
    confusion: of the joint model, summed over seeds, by task: labels, counts.
    """

    recipe: str
    recipe_yaml: str
    synthetic: bool
    folds: int
    seeds: list[int]
    epochs: int
    speakers: int
    recordings: int
    rows: list[dict[str, Any]]
    by_speaker: dict[str, list[dict[str, Any]]]
    confusion: dict[str, dict[str, Any]]
    identities: list[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def study_by_folds(
    recipe: Recipe,
    utterances: list[Manifest],
    features: list[Manifest],
    store: Store,
    folds: int = 0,
    seeds: int = SEEDS,
    tracking: Run | None = None,
    progress: Report | None = None,
) -> list[Study]:
    """A finished study for each fold: the joint model, and alone each task that `confusion_rows` has.

    folds: how many; 0: as many as there are speakers.

    Raises:
        StudyError: fewer speakers than folds, one fold alone, or what cells.planned and train_missing raise.
    """
    known = speakers_of(open_dataset(store, utterances, features).rows)
    folds = folds or len(known)
    if not 2 <= folds <= len(known):
        raise StudyError(f"{folds} folds of {len(known)} speakers; expected at least 2, and no more than there are")
    alone = confusion_rows(str(task) for task in recipe.tasks)
    found = [
        planned(
            with_fold(recipe, number, folds), utterances, features, store, seeds, ("joint",), alone=alone,
            variant=f"fold-{number}",
        )
        for number in range(folds)
    ]  # fmt: skip
    train_missing(found, utterances, features, tracking, progress)
    return found


def confusion_rows(tasks: Iterable[str]) -> list[str]:
    """Those that tell labels apart which a new speaker may have: who is not known cannot be named."""
    specs = [task_spec(task) for task in tasks]
    return [spec.name for spec in specs if spec.answer == "label" and not spec.open_set]


def with_fold(recipe: Recipe, number: int, folds: int) -> Recipe:
    """The recipe with that fold's speakers held out."""
    return recipe.model_copy(update={"fold": (number, folds)})


@dataclass(frozen=True)
class _Answers:
    """One task's answers of one cell over all folds: speakers (N,), and for each seed wanted and got (S, N)."""

    speakers: np.ndarray
    wanted: np.ndarray
    got: np.ndarray


def pooled_of(studies: Sequence[Study]) -> Pooled:
    """Raises StudyError where no task was answered that has labels to be told apart."""
    one = studies[0]
    rows, by_speaker, confusion = [], {}, {}
    for task in confusion_rows(one.tasks):
        alone = closed(frozenset({task}), one.needs)
        for model, cell in ((JOINT, one.joint), (ALONE, alone)):
            answers = _answers(studies, cell, task)
            if answers is None:
                continue
            rows.append({"task": task, "model": model, "trained": one.name(cell), **_figures(answers)})
            if model == JOINT:
                by_speaker[task] = _by_speaker(answers)
                confusion[task] = _confusion(answers)
    if not rows:
        raise StudyError(f"none of {', '.join(one.tasks)} tells labels apart on speakers that training did not hear")
    recordings = {task: sum(line["rows"] for line in lines) for task, lines in by_speaker.items()}
    return Pooled(
        recipe=one.recipe.name,
        recipe_yaml=one.recipe.to_yaml(),
        synthetic=any(corpus.kind == SPOKEN for corpus in one.recipe.corpora),
        folds=len(studies),
        seeds=list(one.seeds),
        epochs=one.recipe.trainer.epochs,
        speakers=max(len(lines) for lines in by_speaker.values()),
        recordings=max(recordings.values()),
        rows=rows,
        by_speaker=by_speaker,
        confusion=confusion,
        identities=[study.identity for study in studies],
    )


def _answers(studies: Sequence[Study], cell: Tasks, task: str) -> _Answers | None:
    speakers: list[str] = []
    wanted: list[list[str]] = [[] for _ in studies[0].seeds]
    got: list[list[str]] = [[] for _ in studies[0].seeds]
    for study in studies:
        for place, seed in enumerate(study.seeds):
            for reference, prediction in study.scores(cell, seed).answers():
                if reference.get(task) is not None and task in prediction:
                    wanted[place].append(reference[task])
                    got[place].append(prediction[task]["value"])
                    if place == 0:
                        speakers.append(reference["speaker"])
    return _Answers(np.array(speakers), np.array(wanted), np.array(got)) if speakers else None


def _figures(answers: _Answers) -> dict[str, float]:
    """Accuracy and recall, means over seeds, with their intervals: speakers and seeds are drawn with replacement."""
    labels, speakers = np.unique(answers.wanted), np.unique(answers.speakers)
    # (S, speakers, labels): right answers, and rows.
    right, there = np.zeros((2, len(answers.wanted), len(speakers), len(labels)))
    who = np.searchsorted(speakers, answers.speakers)
    for place, (wanted, got) in enumerate(zip(answers.wanted, answers.got, strict=True)):
        what = np.searchsorted(labels, wanted)
        np.add.at(there[place], (who, what), 1)
        np.add.at(right[place], (who, what), wanted == got)
    counts = {
        "accuracy": np.stack((right.sum(axis=2), there.sum(axis=2)), axis=2),
        "recall": np.concatenate((right, there), axis=2),
    }
    metrics = {"accuracy": METRICS["emotion/accuracy"], "recall": METRICS["emotion/balanced_accuracy"]}
    found: dict[str, float] = {}
    for name, draws in pigeonhole_bootstrap(counts, metrics).items():
        drawn = estimate(draws)
        found |= {name: drawn.value, f"{name}_low": drawn.low, f"{name}_high": drawn.high}
    return found


def _by_speaker(answers: _Answers) -> list[dict[str, Any]]:
    right = (answers.wanted == answers.got).mean(axis=0)
    return [
        {"speaker": str(name), "rows": int(mine.sum()), "accuracy": float(100 * right[mine].mean())}
        for name in np.unique(answers.speakers)
        if (mine := answers.speakers == name).any()
    ]


def _confusion(answers: _Answers) -> dict[str, Any]:
    labels = sorted({*answers.wanted.flat, *answers.got.flat})
    counts = [[int(((answers.wanted == wanted) & (answers.got == got)).sum()) for got in labels] for wanted in labels]
    return {"labels": [str(label) for label in labels], "counts": counts}


def render(found: Pooled) -> str:
    """The page."""
    from markupsafe import Markup

    drawn = {
        task: Markup(charts.confusion_chart(item["labels"], item["counts"])) for task, item in found.confusion.items()
    }
    return environment().get_template("study_folds.html.j2").render(study=found, confusions=drawn, note=SYNTHETIC)
