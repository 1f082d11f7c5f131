"""Who speaks: identification among enrolled speakers, and verification (trials: verification.py)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtl.answers import Prediction
from mtl.metrics.floors import Floor, ScoredRows, correct_of_most_frequent
from mtl.metrics.metric import CountsOfRow, Metric, Row, Scored, Scorer, Setting, accuracy
from mtl.metrics.verification import detection_cost, equal_error_rate, verification_counts
from mtl.spec import TaskSpec

ENROLMENT = 3  # utterances that a speaker is enrolled with before being identified


class SpeakerScorer(Scorer):
    """Of an open set of speakers: their embeddings are scored, not the nearest speaker of training."""

    def metrics(self, spec: TaskSpec) -> tuple[Metric, ...]:
        columns = ("targets …", "others …")
        # Few speakers decide: half a point would be noise. See mtl.metrics.verification for the trials.
        return (
            accuracy(f"{spec.name}/accuracy", SAME_SPEAKER, examples=False),
            Metric(f"{spec.name}/eer", "lower", columns, eer, SAME_SCORE, False, tolerance=3.0, examples=False),
            Metric(
                f"{spec.name}/min_dcf", "lower", columns, min_dcf, SAME_SCORE, False, tolerance=10.0, examples=False
            ),
        )

    def score(self, spec: TaskSpec, rows: Sequence[Row], predictions: Sequence[Prediction], setting: Setting) -> Scored:
        verified = verification_counts(rows, predictions, setting.known_speakers)
        trials: list[tuple[int, CountsOfRow]] = [(row, tuple(counts)) for row, counts in verified.items()]
        scored = {"accuracy": identify_speakers(rows, predictions), "eer": trials, "min_dcf": trials}
        return {f"{spec.name}/{name}": counts for name, counts in scored.items() if counts}


def identify_speakers(rows: Sequence[Row], predictions: Sequence[Prediction]) -> list[tuple[int, CountsOfRow]]:
    """Closed-set identification among the speakers present, who need not be speakers of training.

    The embeddings of the first ENROLMENT utterances of each speaker (in the order of their ids) are averaged; each
    later utterance counts as correct when the nearest average by cosine is its speaker's.
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
            voices = [_unit(predictions[position].voice) for position in positions[:ENROLMENT]]
            enrolled[speaker] = _unit(np.mean(voices, axis=0))
            tested += [(position, speaker) for position in positions[ENROLMENT:]]
    if len(enrolled) < 2:
        return []
    names, gallery = list(enrolled), np.stack(list(enrolled.values()))
    return [
        (position, (float(names[int(np.argmax(gallery @ _unit(predictions[position].voice)))] == speaker), 1.0))
        for position, speaker in sorted(tested)
    ]


def _unit(vector: Any) -> np.ndarray:
    vector = np.asarray(vector, dtype=np.float64)
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def eer(counts: np.ndarray) -> np.ndarray:
    targets, others = np.split(counts, 2, axis=-1)
    return 100.0 * equal_error_rate(targets, others)


def min_dcf(counts: np.ndarray) -> np.ndarray:
    targets, others = np.split(counts, 2, axis=-1)
    return 100.0 * detection_cost(targets, others)


def _one_speaker(scored: ScoredRows) -> np.ndarray:
    return correct_of_most_frequent([f"{row.get('corpus')}/{row['speaker']}" for row in scored.rows])


def _one_score(scored: ScoredRows) -> np.ndarray:
    """(targets, others) by rank of their score, of trials that all have the same score."""
    ranks = scored.counts.shape[1] // 2
    counts = np.zeros_like(scored.counts)
    counts[:, ranks // 2] = scored.counts[:, :ranks].sum(axis=1)
    counts[:, ranks + ranks // 2] = scored.counts[:, ranks:].sum(axis=1)
    return counts


SAME_SCORE = Floor("the same score for every trial", _one_score)
SAME_SPEAKER = Floor("always the same speaker", _one_speaker)
