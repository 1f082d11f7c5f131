"""F1 of slots, and accuracy of the semantic frame: slots and the tasks of `spec.frame` all correct."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtl.answers import Prediction, Tags
from mtl.metrics.classification import is_correct
from mtl.metrics.floors import Floor, ScoredRows, correct_of_most_frequent
from mtl.metrics.metric import TEXT_PREFIX, CountsOfRow, Metric, Row, Scorer, Setting, accuracy
from mtl.metrics.rates import f1
from mtl.spec import TaskSpec, task
from mtl.text.words import bio_spans, bio_values, tokens_of


class SlotScorer(Scorer):
    """Compares (slot, value) pairs for audio; spans (CoNLL) and, as `value_f1`, pairs for text."""

    def metrics(self, spec: TaskSpec) -> tuple[Metric, ...]:
        def pairs(name: str) -> Metric:
            return Metric(f"{spec.name}/{name}", "higher", ("matched", "predicted", "actual"), f1, NO_SLOT)

        def frames(prefix: str) -> Metric:
            return accuracy(f"{spec.name}/{prefix}frame_accuracy", _same_frame(spec, prefix), examples=False)

        f1s = pairs("f1"), pairs("text_f1"), pairs("text_value_f1")
        return (*f1s, frames(""), frames(TEXT_PREFIX))

    def row(self, spec: TaskSpec, row: Row, prediction: Prediction, setting: Setting) -> dict[str, CountsOfRow]:
        answer, written = prediction.answers[spec.name], row.get("audio") is None
        if row.get(spec.label) is None or not isinstance(answer, Tags):
            return {}
        matched, predicted, actual = slot_counts(row, answer, list(row[spec.label]), spans=written)
        counts: dict[str, CountsOfRow] = {"f1": (matched, predicted, actual)}
        if written:
            counts["value_f1"] = slot_counts(row, answer, list(row[spec.label]), spans=False)
        beside = [is_correct(task(name), row, prediction) for name in spec.frame]
        counts["frame_accuracy"] = (float(matched == predicted == actual and False not in beside), 1.0)
        return counts


def slot_counts(row: Row, answer: Tags, tags: list[str], spans: bool) -> tuple[int, int, int]:
    """Matched, predicted and actual slots, as (slot, positions) spans or (slot, value) pairs; tags: the true ones."""
    actual = Counter(bio_spans(tags) if spans else bio_values(tokens_of(row), tags))
    predicted = Counter(bio_spans(answer.tags) if spans else answer.slots)
    return (actual & predicted).total(), predicted.total(), actual.total()


def _same_frame(spec: TaskSpec, prefix: str) -> Floor:
    """(correct, rows) of the most frequent frame, without tasks that the model lacks; spans in text, pairs in audio."""

    def frame(row: Mapping[str, Any], beside: list[str]) -> str:
        tags = list(row[spec.label])
        pairs = bio_spans(tags) if prefix else bio_values(tokens_of(row), tags)
        return repr(([row.get(task(name).label) for name in beside], sorted(pairs)))

    def counts(scored: ScoredRows) -> np.ndarray:
        beside = [name for name in spec.frame if scored.other(f"{name}/{prefix}accuracy") is not None]
        return correct_of_most_frequent([frame(row, beside) for row in scored.rows])

    return Floor(f"the most frequent {' and '.join(spec.frame)} with its slots", counts)


NO_SLOT = Floor("no slot", lambda scored: scored.counts * [0, 0, 1])
