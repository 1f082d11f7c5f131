"""Scores as counts per utterance, of every registered task.

    scores = score_rows(rows, predictions)       # {"intent/accuracy": Counts, …}
    summarise(scores)                            # {"intent/accuracy": 97.5, …}
    METRICS["intent/accuracy"].better            # "higher"

The scorer of a task is that of its spec, or that of its kind of answer. The counts of a metric contain labelled rows
only.
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
    """None if neither the spec nor the kind of answer has a scorer."""
    kind: type[Scorer] | None = resolve(spec.scorer) or (SpeakerScorer if spec.open_set else SCORERS.get(spec.answer))
    return kind() if kind else None


@lru_cache(maxsize=8)
def _by_name(specs: tuple[TaskSpec, ...]) -> dict[str, Metric]:
    scorers = ((spec, scorer) for spec in specs if (scorer := scorer_of(spec)))
    return {metric.name: metric for spec, scorer in scorers for metric in scorer.metrics(spec)}


class _Metrics(Mapping[str, Metric]):
    """Metrics of the registered tasks by name."""

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
    """Counts of every metric with labelled rows. hot_words, known_speakers: see Setting.

    A row is text if its `audio` is null; its prediction must come from that input.
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
    """Metric of a name; "transcript/wer@digits" is "transcript/wer" in the domain digits."""
    return METRICS[name.partition("@")[0]]


def in_unit(name: str, value: float, digits: int = 2) -> str:
    """Formats a value of a metric: "1.85 %", "4.20 dB"."""
    return f"{value:.{digits}f} {metric_of(name).unit}".rstrip()


def by_domain(scores: Mapping[str, Counts], domains: Sequence[str | None]) -> dict[str, Counts]:
    """Scores of each domain, as "<metric>@<domain>", for metrics with `by_domain`; domains: of the rows."""
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
    """Value of each metric over all its rows."""
    return {metric: float(metric_of(metric).value(counts.counts.sum(axis=0))) for metric, counts in scores.items()}
