"""Accuracy of labels, and mean recall over labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtl.answers import Label, Prediction
from mtl.groups import group_of
from mtl.metrics.floors import Floor, ScoredRows, majority
from mtl.metrics.metric import CountsOfRow, Metric, Row, Scored, Scorer, Setting, accuracy, written_too
from mtl.metrics.rates import balanced
from mtl.spec import TEXT, TaskSpec


class LabelScorer(Scorer):
    """A label that the training rows lack counts as an error. With `spec.balanced` also the mean recall over labels."""

    def metrics(self, spec: TaskSpec) -> tuple[Metric, ...]:
        metrics = written_too(spec, lambda prefix: (accuracy(f"{prefix}accuracy", majority(spec.label)),))
        if not spec.balanced:
            return metrics
        name, columns = f"{spec.name}/balanced_accuracy", ("correct …", "rows …")
        by_label = Metric(name, "higher", columns, balanced, SAME_LABEL, by_row=False, tolerance=2.0, examples=False)
        return (*metrics, by_label)

    def row(self, spec: TaskSpec, row: Row, prediction: Prediction, setting: Setting) -> dict[str, CountsOfRow]:
        correct = is_correct(spec, row, prediction)
        return {} if correct is None else {"accuracy": (float(correct), 1.0)}

    def score(self, spec: TaskSpec, rows: Sequence[Row], predictions: Sequence[Prediction], setting: Setting) -> Scored:
        scored = super().score(spec, rows, predictions, setting)
        if spec.balanced and (by_label := _by_label(spec, rows, predictions)):
            scored[f"{spec.name}/balanced_accuracy"] = by_label
        return scored


def is_correct(spec: TaskSpec, row: Row, prediction: Prediction) -> bool | None:
    """Whether the answer equals the label; None without a label or an answer."""
    answer, label = prediction.answers.get(spec.name), row.get(spec.label)
    return None if label is None or not isinstance(answer, Label) else answer.value == label


def _by_label(spec: TaskSpec, rows: Sequence[Row], predictions: Sequence[Prediction]) -> list[tuple[int, CountsOfRow]]:
    """Counts (2C,) of each row with audio: correct answers by label, rows by label."""
    answered = [
        (position, str(row[spec.label]), correct)
        for position, (row, prediction) in enumerate(zip(rows, predictions, strict=True))
        if group_of(row) != TEXT and (correct := is_correct(spec, row, prediction)) is not None
    ]
    names = sorted({label for _, label, _ in answered})
    columns = np.eye(len(names))
    counts = []
    for position, label, correct in answered:
        column = columns[names.index(label)]
        counts.append((position, (*(column * correct), *column)))
    return counts


def _one_label(scored: ScoredRows) -> np.ndarray:
    """(correct of each label, rows of each label)."""
    labels = scored.counts[:, scored.counts.shape[1] // 2 :]
    constant = np.zeros(labels.shape[1])
    constant[labels.sum(axis=0).argmax()] = 1
    return np.hstack([labels * constant, labels])


SAME_LABEL = Floor("always the same label", _one_label)
