"""Scores as counts per utterance, of every registered task.

    scores = score_rows(rows, predictions)       # {"intent/accuracy": Counts, …}
    summarise(scores)                            # {"intent/accuracy": 97.5, …}
    METRICS["intent/accuracy"].better            # "higher"

A task is scored by the scorer that its spec names, or by that of its kind of answer. Rows that are not labelled for a
metric are absent from its counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np

from mtl.answers import Prediction
from mtl.metrics.classification import LabelScorer
from mtl.metrics.metric import Counts, Metric, Row, Scorer, Setting
from mtl.metrics.numbers import NumberScorer
from mtl.metrics.recognition import PhoneScorer, TranscriptScorer
from mtl.metrics.slots import SlotScorer
from mtl.metrics.speakers import SpeakerScorer
from mtl.metrics.translation import TranslationScorer
from mtl.spec import AnswerKind, TaskSpec, resolve, tasks

SCORERS: dict[AnswerKind, type[Scorer]] = {
    "text": TranscriptScorer,
    "label": LabelScorer,
    "number": NumberScorer,
    "tags": SlotScorer,
    "translation": TranslationScorer,
    "phones": PhoneScorer,
}


def scorer_of(spec: TaskSpec) -> Scorer | None:
    """None for a kind of answer that is not scored, where the spec names no scorer."""
    kind: type[Scorer] | None = resolve(spec.scorer) or (SpeakerScorer if spec.open_set else SCORERS.get(spec.answer))
    return kind() if kind else None


@lru_cache(maxsize=8)
def _by_name(specs: tuple[TaskSpec, ...]) -> dict[str, Metric]:
    scorers = ((spec, scorer) for spec in specs if (scorer := scorer_of(spec)))
    return {metric.name: metric for spec, scorer in scorers for metric in scorer.metrics(spec)}


class _Metrics(Mapping[str, Metric]):
    """The metrics of the tasks that are registered at the moment, by name, task by task."""

    def __getitem__(self, name: str) -> Metric:
        return _by_name(tasks())[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_by_name(tasks()))

    def __len__(self) -> int:
        return len(_by_name(tasks()))


METRICS: Mapping[str, Metric] = _Metrics()


def score_rows(
    rows: Sequence[Row],
    predictions: Sequence[Prediction],
    hot_words: Sequence[str] = (),
    known_speakers: Collection[str] = (),
) -> dict[str, Counts]:
    """Counts of every metric that some row is labelled for; rows with audio and rows of text may be mixed.

    A row is text when its `audio` is null. Its prediction must have been made from that input. hot_words,
    known_speakers: see Setting.
    """
    setting = Setting(hot_words, known_speakers)
    answering = {name for prediction in predictions for name in prediction.answers}
    scored = {}
    for spec in tasks():
        if spec.name in answering and (scorer := scorer_of(spec)):
            scored.update(scorer.score(spec, rows, predictions, setting))
    return {
        metric: Counts(np.array([row for row, _ in pairs]), np.array([counts for _, counts in pairs], dtype=np.float64))
        for metric, pairs in scored.items()
    }


def metric_of(name: str) -> Metric:
    """The metric that a name stands for; "transcript/wer@digits" is "transcript/wer" of the domain digits."""
    return METRICS[name.partition("@")[0]]


def in_unit(name: str, value: float, digits: int = 2) -> str:
    """A metric's value as it is shown: "1.85 %", "4.20 dB"."""
    return f"{value:.{digits}f} {metric_of(name).unit}".rstrip()


def by_domain(scores: Mapping[str, Counts], domains: Sequence[str | None]) -> dict[str, Counts]:
    """Scores of each domain alone, as "<metric>@<domain>", of the metrics that have them; domains: of the rows."""
    scored = {}
    for metric, counts in scores.items():
        if not METRICS[metric].by_domain:
            continue
        of_rows = [domains[row] for row in counts.rows.tolist()]
        for domain in sorted({name for name in of_rows if name is not None}):
            chosen = np.array([name == domain for name in of_rows])
            scored[f"{metric}@{domain}"] = Counts(counts.rows[chosen], counts.counts[chosen])
    return scored


def summarise(scores: Mapping[str, Counts]) -> dict[str, float]:
    """Each metric, in its unit, over all of its rows."""
    return {metric: float(metric_of(metric).value(counts.counts.sum(axis=0))) for metric, counts in scores.items()}
