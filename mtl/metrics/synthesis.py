"""Metrics of synthesis: distances from recordings, and the accuracy of separately trained judge models.

The heads compute the distances (mtl.heads.base.Head.measure), pipelines/evaluation/synthesis.py the judges' counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mtl.answers import Measurement, Prediction
from mtl.metrics.distortion import CENTS, clamped_decibels, distortions
from mtl.metrics.floors import EMPTY_TRANSCRIPT, Floor, ScoredRows, majority
from mtl.metrics.metric import CountsOfRow, Metric, Row, Scorer, Setting
from mtl.metrics.rates import mean, ratio, root_mean
from mtl.spec import TaskSpec, task


class MeasurementScorer(Scorer):
    """Base of scorers whose counts the head computes."""

    def row(self, spec: TaskSpec, row: Row, prediction: Prediction, setting: Setting) -> dict[str, CountsOfRow]:
        answer = prediction.answers[spec.name]
        return dict(answer.counts) if isinstance(answer, Measurement) else {}


class MelScorer(MeasurementScorer):
    """Mel-cepstral distortion of synthesis with the durations of the recordings; judges."""

    def metrics(self, spec: TaskSpec) -> tuple[Metric, ...]:
        return (_error(f"{spec.name}/mcd", ("decibels", "frames"), MEAN_MEL, 0.2, "dB"), *_judged(spec))


class ProsodyScorer(MeasurementScorer):
    """Errors of predicted durations and pitch of phones."""

    def metrics(self, spec: TaskSpec) -> tuple[Metric, ...]:
        return (
            _error(f"{spec.name}/duration", ("milliseconds", "phones"), MEDIAN_DURATION, 2.0, "ms"),
            _error(f"{spec.name}/pitch", ("cents²", "phones"), MEAN_PITCH, 10.0, "cents", root_mean),
        )


class WaveformScorer(MeasurementScorer):
    """Distances of recordings resynthesised from their log-mels; judges."""

    def metrics(self, spec: TaskSpec) -> tuple[Metric, ...]:
        return (
            _error(f"{spec.name}/lsd", ("decibels", "windows"), MEAN_SPECTRUM, 0.2, "dB"),
            _error(f"{spec.name}/mcd", ("decibels", "frames"), MEAN_MEL, 0.2, "dB"),
            *_judged(spec),
        )


def _error(
    name: str,
    columns: tuple[str, str],
    floor: Floor,
    tolerance: float,
    unit: str,
    value: Callable[[np.ndarray], np.ndarray] = mean,
) -> Metric:
    return Metric(name, "lower", columns, value, floor, tolerance=tolerance, unit=unit)


def _judged(spec: TaskSpec) -> tuple[Metric, ...]:
    errors, added, meant = ("errors", "words"), ("errors beyond the recording's", "words"), ("as meant", "rows")
    no_word = Floor("no word heard", _all_added(f"{spec.name}/wer"))
    return (
        Metric(f"{spec.name}/wer", "lower", errors, ratio, EMPTY_TRANSCRIPT, tolerance=2.0),
        Metric(f"{spec.name}/added_wer", "lower", added, ratio, no_word, tolerance=2.0),
        *(
            Metric(f"{spec.name}/{one.name}", "higher", meant, ratio, majority(one.label), tolerance=3.0)
            for one in map(task, spec.conveys)
        ),
    )


def _all_added(metric: str) -> Callable[[ScoredRows], np.ndarray]:
    """(errors beyond those on the recording, words) if no word is recognised; metric: of all errors."""

    def counts(scored: ScoredRows) -> np.ndarray:
        errors = scored.other(metric)
        if errors is None:
            raise LookupError(f"{metric} was not scored on the rows of {metric.replace('/', '/added_')}")
        of_recordings = errors[:, 0] - scored.counts[:, 0]
        return np.stack([scored.counts[:, 1] - of_recordings, scored.counts[:, 1]], axis=1)

    return counts


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
    """(decibels, frames): mel-cepstral distortion between a recording and the mean frame of all."""
    frames = scored.counts[:, 1].astype(int)
    mels = [np.asarray(mel[:count], dtype=np.float32) for mel, count in zip(scored.features(), frames, strict=True)]
    mean_frame = np.concatenate(mels).mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.array([[float(distortions(mean_frame[None], mel).sum()), len(mel)] for mel in mels])


def _mean_spectrum(scored: ScoredRows) -> np.ndarray:
    """(decibels, windows): log-spectral distance between a recording and the mean spectrum of all."""
    windows = scored.counts[:, 1].astype(int)
    spectra = [
        clamped_decibels(np.asarray(wave, dtype=np.float64) / 32768)[:, :count]
        for wave, count in zip(scored.waveforms(), windows, strict=True)
    ]
    mean_spectrum = np.concatenate(spectra, axis=1).mean(axis=1, keepdims=True)
    distances = [np.sqrt(np.square(spectrum - mean_spectrum).mean(axis=0)) for spectrum in spectra]
    return np.array([[float(row.sum()), len(row)] for row in distances])


MEDIAN_DURATION = Floor("always the median duration", _one_duration)
MEAN_PITCH = Floor("always the mean pitch", _one_pitch)
MEAN_MEL = Floor("mean log-mel", _mean_mel)
MEAN_SPECTRUM = Floor("mean spectrum", _mean_spectrum)
