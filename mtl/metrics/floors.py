"""The floor of each metric: what a model that knows nothing reaches on the same rows.

    scored = ScoredRows(rows, counts)            # rows' labels, and the counts (N, C) of a model on them
    METRICS["intent/accuracy"].floor.counts(scored)      # (N, C): of always the most frequent intent

A floor gives counts per row, in the columns of its metric, so that a model is compared with it as with any other model.
Its constants (the most frequent label, the mean log-mel) are those of the scored rows themselves: no constant answer
can do better by having been fitted elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mtl.heads.regression import SEMITONES
from mtl.heads.slots import bio_values
from mtl.inference.vocoder_metrics import clamped_decibels
from mtl.inputs.codec import tokens_of
from mtl.metrics.distortion import CENTS, distortions
from mtl.metrics.rates import translation_counts


def _none() -> Sequence[np.ndarray]:
    raise LookupError("these rows were given without their recordings, which the floor of this metric is made from")


@dataclass(frozen=True)
class ScoredRows:
    """Rows that a metric counts, and what a floor may look at.

    rows: labels of N rows. counts (N, C): of the model that was scored. other: counts of another metric of that model
    on the same rows, None where it was not scored on them. features: log-mels (T, F), waveforms: int16 (S,), of each
    row.
    """

    rows: Sequence[Mapping[str, Any]]
    counts: np.ndarray
    other: Callable[[str], np.ndarray | None] = lambda metric: None
    features: Callable[[], Sequence[np.ndarray]] = _none
    waveforms: Callable[[], Sequence[np.ndarray]] = _none
    hop_ms: float = 10.0


@dataclass(frozen=True)
class Floor:
    """answer: what the model that knows nothing answers, in words. counts: (N, C) of that answer."""

    answer: str
    counts: Callable[[ScoredRows], np.ndarray]


def most_frequent(values: Sequence[Any]) -> Any:
    """The most frequent value; of equally frequent ones the first in order."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def _all_deleted(scored: ScoredRows) -> np.ndarray:
    """(errors, units): every unit of the reference is missing."""
    return scored.counts[:, [1, 1]]


def _all_added(metric: str) -> Callable[[ScoredRows], np.ndarray]:
    """(errors beyond those on the recording, words), where `metric` has the errors themselves."""

    def counts(scored: ScoredRows) -> np.ndarray:
        heard = scored.other(metric)
        if heard is None:
            raise LookupError(f"{metric} was not scored on the rows of {metric.replace('/', '/added_')}")
        of_recordings = heard[:, 0] - scored.counts[:, 0]
        return np.stack([scored.counts[:, 1] - of_recordings, scored.counts[:, 1]], axis=1)

    return counts


def _no_slot(scored: ScoredRows) -> np.ndarray:
    """(matched, predicted, actual)."""
    return scored.counts * [0, 0, 1]


def _right(values: Sequence[Any]) -> np.ndarray:
    """(correct, rows) of the most frequent value for every row."""
    constant = most_frequent(values)
    return np.array([[float(value == constant), 1.0] for value in values])


def _one_speaker(scored: ScoredRows) -> np.ndarray:
    return _right([f"{row.get('corpus')}/{row['speaker']}" for row in scored.rows])


def _one_label(scored: ScoredRows) -> np.ndarray:
    """(correct of each label, rows of each label)."""
    labels = scored.counts[:, scored.counts.shape[1] // 2 :]
    constant = np.zeros(labels.shape[1])
    constant[labels.sum(axis=0).argmax()] = 1
    return np.hstack([labels * constant, labels])


def _one_score(scored: ScoredRows) -> np.ndarray:
    """(targets, others) by place of their score, of trials that all have the same score."""
    places = scored.counts.shape[1] // 2
    counts = np.zeros_like(scored.counts)
    counts[:, places // 2] = scored.counts[:, :places].sum(axis=1)
    counts[:, places + places // 2] = scored.counts[:, places:].sum(axis=1)
    return counts


def _frame(spans: bool, intent: str) -> Callable[[ScoredRows], np.ndarray]:
    """(correct, rows) of the most frequent intent and slots together; of slots alone where the model has no intents.

    spans: compare slots as spans of words, as of text. intent: the metric of the model's intents.
    """

    def frame(row: Mapping[str, Any], with_intent: bool) -> str:
        tags = list(row["slots"])
        words = [str(position) for position in range(len(tags))] if spans else tokens_of(row)
        return repr((row.get("intent") if with_intent else None, sorted(bio_values(words, tags))))

    def counts(scored: ScoredRows) -> np.ndarray:
        with_intent = scored.other(intent) is not None
        return _right([frame(row, with_intent) for row in scored.rows])

    return counts


def _one_translation(name: str) -> Callable[[ScoredRows], np.ndarray]:
    def counts(scored: ScoredRows) -> np.ndarray:
        references = [row["translation"] for row in scored.rows]
        constant = most_frequent(references)
        return np.array([translation_counts(reference, constant)[name] for reference in references], dtype=np.float64)

    return counts


def _one_tempo(scored: ScoredRows) -> np.ndarray:
    """(percent, rows): phones a second, off by so many percent."""
    rates = np.array([len(row["durations"]) / row["duration"] for row in scored.rows])
    return np.stack([100 * np.abs(np.median(rates) / rates - 1), np.ones(len(rates))], axis=1)


def _one_intonation(scored: ScoredRows) -> np.ndarray:
    """(semitones, rows)."""
    lively = np.array([float(np.std(row["pitch"])) * SEMITONES for row in scored.rows])
    return np.stack([np.abs(np.median(lively) - lively), np.ones(len(lively))], axis=1)


def _one_duration(scored: ScoredRows) -> np.ndarray:
    """(milliseconds, phones)."""
    rows = [np.asarray(row["durations"], dtype=np.float64) for row in scored.rows]
    constant = np.median(np.concatenate(rows))
    return np.array([[scored.hop_ms * np.abs(constant - row).sum(), len(row)] for row in rows])


def _one_pitch(scored: ScoredRows) -> np.ndarray:
    """(cents², phones)."""
    rows = [np.asarray(row["pitch"], dtype=np.float64) for row in scored.rows]
    constant = np.concatenate(rows).mean()
    return np.array([[np.square(CENTS * (constant - row)).sum(), len(row)] for row in rows])


def _mean_mel(scored: ScoredRows) -> np.ndarray:
    """(decibels, frames) of the mel-cepstral distortion between a recording and the mean frame of all of them."""
    frames = scored.counts[:, 1].astype(int)
    mels = [
        torch.from_numpy(np.asarray(mel[:count], dtype=np.float32))
        for mel, count in zip(scored.features(), frames, strict=True)
    ]
    total = sum(mel.double().sum(dim=0) for mel in mels) / sum(len(mel) for mel in mels)
    mean = torch.as_tensor(total).float()
    return np.array([[float(distortions(mean.expand(len(mel), -1), mel).sum()), len(mel)] for mel in mels])


def _mean_spectrum(scored: ScoredRows) -> np.ndarray:
    """(decibels, windows) of the log-spectral distance between a recording and the mean spectrum of all of them."""
    windows = scored.counts[:, 1].astype(int)
    spectra = [
        clamped_decibels(torch.from_numpy(np.array(wave, dtype=np.float32)) / 32768)[:, :count]
        for wave, count in zip(scored.waveforms(), windows, strict=True)
    ]
    total = sum(spectrum.double().sum(dim=1) for spectrum in spectra) / sum(spectrum.shape[1] for spectrum in spectra)
    mean = torch.as_tensor(total).float()[:, None]
    far = [(spectrum - mean).square().mean(dim=0).sqrt() for spectrum in spectra]
    return np.array([[float(row.sum()), len(row)] for row in far])


EMPTY_TRANSCRIPT = Floor("empty transcript", _all_deleted)
NO_PHONE = Floor("no phone", _all_deleted)
NO_SLOT = Floor("no slot", _no_slot)
SAME_LABEL = Floor("always the same label", _one_label)
SAME_SCORE = Floor("the same score for every trial", _one_score)
SAME_SPEAKER = Floor("always the same speaker", _one_speaker)
SPOKEN_FRAME = Floor("the most frequent intent with its slots", _frame(False, "intent/accuracy"))
WRITTEN_FRAME = Floor("the most frequent intent with its slots", _frame(True, "intent/text_accuracy"))
SAME_BLEU = Floor("always the most frequent translation", _one_translation("bleu"))
SAME_CHRF = Floor("always the most frequent translation", _one_translation("chrf"))
MEDIAN_TEMPO = Floor("always the median tempo", _one_tempo)
MEDIAN_INTONATION = Floor("always the median intonation", _one_intonation)
MEDIAN_DURATION = Floor("always the median duration", _one_duration)
MEAN_PITCH = Floor("always the mean pitch", _one_pitch)
MEAN_MEL = Floor("mean log-mel", _mean_mel)
MEAN_SPECTRUM = Floor("mean spectrum", _mean_spectrum)


def majority(column: str) -> Floor:
    """Always the most frequent label of a column."""
    return Floor("majority class", lambda scored: _right([str(row[column]) for row in scored.rows]))


def unintelligible(task: str) -> Floor:
    """Of speech in which no word is heard, beyond the errors on the recording."""
    return Floor("no word heard", _all_added(f"{task}/wer"))
