"""Speaker verification, whether two recordings have the same speaker: trials, equal error rate, detection cost.

    counts = verification_counts(rows, predictions)              # {row: (2 x BINS,)}: each speaker's trials, at one row
    100 * equal_error_rate(*np.split(sum(counts.values()), 2))

The score of a trial is the cosine of two voices (`Prediction.voice`). Trials come from the rows' column `trials` or are
built: the first UTTERANCES recordings of each speaker, ordered by hash, are paired with each other (targets), and
recording k of each speaker with recording k of every other speaker of the same corpus and language (non-targets).

Only the order of scores matters, so each score is stored as its rank, in at most BINS bins. Counts of trials per rank
add up over speakers, so a bootstrap can resample speakers. Speakers of the training rows are ignored (open set).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from mtl.answers import Prediction

UTTERANCES = 6  # of each speaker in built trials: up to 15 target trials
BINS = 1000  # number of ranks; results are exact with at most as many different scores
P_TARGET = 0.05  # prior of a target in the detection cost, with C_miss = C_fa = 1 (VoxSRC's evaluation plan)


class Trial(NamedTuple):
    """Positions of two rows, and whether they have the same speaker."""

    enrolled: int
    tested: int
    target: bool


def verification_counts(
    rows: Sequence[Mapping[str, Any]], predictions: Sequence[Prediction], known: Collection[str] = ()
) -> dict[int, np.ndarray]:
    """Counts (2 x BINS,) of target and of non-target trials by rank of their score, lowest first.

    known: speakers of the training rows, whose trials are ignored. The counts of a speaker (of the first row of a
    trial) are those of the speaker's first row. Empty without a trial of each kind.
    """
    voices = {
        position: unit_vector(prediction.voice)
        for position, (row, prediction) in enumerate(zip(rows, predictions, strict=True))
        if prediction.voice is not None and row.get("speaker") is not None and row["speaker"] not in known
    }
    trials = listed_trials(rows, voices) or built_trials(rows, voices)
    if len({trial.target for trial in trials}) < 2:
        return {}
    scores = np.array([float(voices[trial.enrolled] @ voices[trial.tested]) for trial in trials])
    first_row: dict[tuple[Any, Any], int] = {}
    for position in sorted(voices, key=lambda position: str(rows[position].get("id"))):
        first_row.setdefault((rows[position].get("corpus"), rows[position]["speaker"]), position)
    counts: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(2 * BINS))
    for trial, rank in zip(trials, ranks_of(scores).tolist(), strict=True):
        row = rows[trial.enrolled]
        counts[first_row[row.get("corpus"), row["speaker"]]][rank + (0 if trial.target else BINS)] += 1
    return dict(sorted(counts.items()))


def unit_vector(vector: Any) -> np.ndarray:
    vector = np.asarray(vector, dtype=np.float64)
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def listed_trials(rows: Sequence[Mapping[str, Any]], voices: Collection[int]) -> list[Trial]:
    """Trials of the column `trials`, "1 ID" for a target and "0 ID" for a non-target, with both recordings in rows."""
    positions = {str(rows[position].get("id")): position for position in voices}
    trials = []
    for position in sorted(voices):
        for text in rows[position].get("trials") or ():
            label, _, other = text.partition(" ")
            tested = positions.get(f"{rows[position].get('corpus')}/{other}")
            if tested is not None:
                trials.append(Trial(position, tested, label == "1"))
    return trials


def built_trials(rows: Sequence[Mapping[str, Any]], voices: Collection[int]) -> list[Trial]:
    """Targets and non-targets of speakers with at least two recordings; see the module's docstring."""
    by_speaker: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for position in sorted(voices, key=lambda position: _order(rows[position])):
        row = rows[position]
        by_speaker[str(row.get("corpus")), str(row.get("language"))][str(row["speaker"])].append(position)
    trials = []
    for speakers in by_speaker.values():
        chosen = {name: speakers[name][:UTTERANCES] for name in sorted(speakers) if len(speakers[name]) > 1}
        for positions in chosen.values():
            trials += [Trial(one, other, True) for one, other in combinations(positions, 2)]
        for ours, theirs in combinations(chosen.values(), 2):
            for number, (one, other) in enumerate(zip(ours, theirs, strict=False)):
                # Alternately, so that their trials are divided between both speakers.
                trials.append(Trial(one, other, False) if number % 2 == 0 else Trial(other, one, False))
    return trials


def _order(row: Mapping[str, Any]) -> bytes:
    return hashlib.blake2b(f"trials/{row.get('id')}".encode(), digest_size=8).digest()


def ranks_of(scores: np.ndarray) -> np.ndarray:
    """(N,) ranks from 0 of scores (N,); neighbours share one if there are more than BINS different scores."""
    values, rank = np.unique(scores, return_inverse=True)
    return rank if len(values) <= BINS else rank * BINS // len(values)


def error_rates(targets: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rates of misses and false alarms (..., P + 1) at every threshold, from counts by rank (..., P).

    Threshold t accepts ranks from t on.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        misses = np.cumsum(targets, axis=-1) / targets.sum(axis=-1, keepdims=True)
        alarms = 1 - np.cumsum(others, axis=-1) / others.sum(axis=-1, keepdims=True)
    start = np.zeros((*targets.shape[:-1], 1))
    return np.concatenate((start, misses), axis=-1), np.concatenate((start + 1, alarms), axis=-1)


def equal_error_rate(targets: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Equal rate of misses and false alarms (...,), interpolated between thresholds, from counts (..., P)."""
    misses, alarms = error_rates(targets, others)
    gap = misses - alarms  # rises from -1 to 1
    after = np.argmax(gap >= 0, axis=-1)[..., None]
    before = np.maximum(after - 1, 0)
    low, high = (np.take_along_axis(gap, at, axis=-1) for at in (before, after))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(high > low, -low / (high - low), 0.0)
    first, second = (np.take_along_axis(misses, at, axis=-1) for at in (before, after))
    rate = (first + share * (second - first))[..., 0]
    return np.where(np.isfinite(misses[..., -1]) & np.isfinite(alarms[..., -1]), rate, np.nan)


def detection_cost(targets: np.ndarray, others: np.ndarray, p_target: float = P_TARGET) -> np.ndarray:
    """Lowest cost over all thresholds, 1 for a constant answer (NIST's normalised minDCF)."""
    misses, alarms = error_rates(targets, others)
    cost = (p_target * misses + (1 - p_target) * alarms).min(axis=-1) / min(p_target, 1 - p_target)
    return np.where(np.isfinite(misses[..., -1]) & np.isfinite(alarms[..., -1]), cost, np.nan)
