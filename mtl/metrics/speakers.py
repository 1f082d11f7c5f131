"""Identification among enrolled speakers, and verification (verification.py)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from mtl.answers import Prediction
from mtl.metrics.floors import Floor, ScoredRows, correct_of_most_frequent
from mtl.metrics.metric import CountsOfRow, Metric, Row, Scored, Scorer, Setting, accuracy
from mtl.metrics.verification import detection_cost, equal_error_rate, unit_vector, verification_counts
from mtl.spec import TaskSpec

ENROLMENT = 3  # number of utterances that a speaker is enrolled with


class SpeakerScorer(Scorer):
    """Scores of speaker embeddings for an open set of speakers."""

    def metrics(self, spec: TaskSpec) -> tuple[Metric, ...]:
        def error(name: str, value: Callable[[np.ndarray, np.ndarray], np.ndarray], tolerance: float) -> Metric:
            columns, percent = ("targets …", "others …"), partial(_percent, value)
            name = f"{spec.name}/{name}"
            return Metric(name, "lower", columns, percent, SAME_SCORE, False, tolerance=tolerance, examples=False)

        return (
            accuracy(f"{spec.name}/accuracy", SAME_SPEAKER, examples=False),
            error("eer", equal_error_rate, 3.0),  # high tolerances: there are few speakers
            error("min_dcf", detection_cost, 10.0),
        )

    def score(self, spec: TaskSpec, rows: Sequence[Row], predictions: Sequence[Prediction], setting: Setting) -> Scored:
        verified = verification_counts(rows, predictions, setting.known_speakers)
        trials: list[tuple[int, CountsOfRow]] = [(row, tuple(counts)) for row, counts in verified.items()]
        scored = {"accuracy": identify_speakers(rows, predictions), "eer": trials, "min_dcf": trials}
        return {f"{spec.name}/{name}": counts for name, counts in scored.items() if counts}


def identify_speakers(rows: Sequence[Row], predictions: Sequence[Prediction]) -> list[tuple[int, CountsOfRow]]:
    """Closed-set identification among the speakers of the rows.

    The embeddings of the first ENROLMENT utterances of each speaker (by id) are averaged; a later utterance is correct
    if the nearest average by cosine is that of its speaker.
    """
    by_speaker: dict[str, list[int]] = defaultdict(list)
    for position, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
        if row.get("speaker") is not None and prediction.voice is not None:
            by_speaker[f"{row.get('corpus')}/{row['speaker']}"].append(position)
    enrolled: dict[str, np.ndarray] = {}
    tested: list[tuple[int, str]] = []
    for speaker, positions in by_speaker.items():
        positions.sort(key=lambda position: str(rows[position].get("id")))
        if len(positions) > ENROLMENT:
            voices = [unit_vector(predictions[position].voice) for position in positions[:ENROLMENT]]
            enrolled[speaker] = unit_vector(np.mean(voices, axis=0))
            tested += [(position, speaker) for position in positions[ENROLMENT:]]
    if len(enrolled) < 2:
        return []
    names, gallery = list(enrolled), np.stack(list(enrolled.values()))
    return [
        (position, (float(names[int(np.argmax(gallery @ unit_vector(predictions[position].voice)))] == speaker), 1.0))
        for position, speaker in sorted(tested)
    ]


def _percent(value: Callable[[np.ndarray, np.ndarray], np.ndarray], counts: np.ndarray) -> np.ndarray:
    """Counts (..., 2P) of target and other trials by rank of their score -> (...)."""
    targets, others = np.split(counts, 2, axis=-1)
    return 100.0 * value(targets, others)


def _one_speaker(scored: ScoredRows) -> np.ndarray:
    return correct_of_most_frequent([f"{row.get('corpus')}/{row['speaker']}" for row in scored.rows])


def _one_score(scored: ScoredRows) -> np.ndarray:
    """(targets, others) by rank, for trials that all have the same score."""
    ranks = scored.counts.shape[1] // 2
    counts = np.zeros_like(scored.counts)
    counts[:, ranks // 2] = scored.counts[:, :ranks].sum(axis=1)
    counts[:, ranks + ranks // 2] = scored.counts[:, ranks:].sum(axis=1)
    return counts


SAME_SCORE = Floor("the same score for every trial", _one_score)
SAME_SPEAKER = Floor("always the same speaker", _one_speaker)
