"""Evaluation of synthesised speech: distances from the recording, and what judge models recognise in it.

    table = judged_speech(store, address, load, judges, test, 200)    # SPEECH_SCHEMA: a row per recording and kind
    figures(table)                                                    # means with intervals by kind, for people
    scores.with_counts(counts(table, tasks))                          # "mel/wer" and so on, for the gate

Test recordings are synthesised again from their phones, with their speaker and emotion; the model predicts durations
and pitch. The result is compared with the recording, with copy-synthesis of the recording's log-mel and pitch (the
upper limit of any model with this vocoder), and with the mean log-mel of the training rows (no information). A trained
vocoder is compared with Griffin-Lim.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from mtl.inference.conversion import Converter
from mtl.inference.predictor import Predictor
from mtl.inference.speech_synthesis import SynthesizedSpeech
from mtl.inference.synthesizer import Synthesizer
from mtl.inference.vocoding import VocoderWrapper
from mtl.metrics.bootstrap import bootstrap_interval
from mtl.metrics.distortion import spectral_distance
from mtl.metrics.rates import mean
from mtl.metrics.recognition import word_errors
from mtl.spec import first_with_answer
from mtl.spec import task as task_spec
from pipelines.core import cluster
from pipelines.core.progress import Report
from pipelines.data.dataset import Dataset, by_hash
from pipelines.evaluation.conversion import conversions, pairs_of
from pipelines.evaluation.gates import RowCounts
from pipelines.evaluation.judges import (
    CHUNK,
    SPEECH_SCHEMA,
    Judge,
    Measured,
    answers_of,
    distance,
    judged_by,
    recording_of,
)
from pipelines.sources.segments import one_thread
from pipelines.storage.store import Store, fingerprint

VERSION = 3  # bump when the same models on the same rows would get other figures
RECORDING, GRIFFIN_LIM, COPY, SYNTHESIS, MEAN = KINDS = (
    *("recording", "copy by Griffin-Lim", "copy-synthesis", "synthesis", "mean log-mel"),
)
SAME_LENGTH = (GRIFFIN_LIM, COPY, MEAN)  # as the recording, sample by sample
PART = 32  # recordings, or pairs of them, in one Ray task
KIND_OF_TASK = {"mel": SYNTHESIS, "waveform": COPY}  # the kind of sound that a task is judged by
Voice = Synthesizer | VocoderWrapper
Judges = Mapping[str, Judge]  # by task


def judged_speech(
    store: Store,
    address: str,
    load: Callable[[], Predictor],
    judges: Judges,
    dataset: Dataset,
    rows: int,
    progress: Report | None = None,
    speaks: bool = True,
) -> pa.Table:
    """`judge_speech` for the model with this address on at most `rows` recordings; the result is cached in the store.

    speaks: see `spoken_rows`.
    """
    chosen = spoken_rows(dataset, rows, speaks)
    addresses = sorted((task, judge.address) for task, judge in judges.items())
    ids = chosen.rows["id"].to_pylist()
    key = f"evaluations/speech-{fingerprint(address, addresses, dataset.identity, ids, VERSION)}.parquet"
    if not store.exists(key):
        store.write_table(key, judge_speech(load, chosen, dataset, judges, rows, progress))
    return store.read_table(key)


def judge_speech(
    load: Callable[[], Predictor],
    chosen: Dataset,
    dataset: Dataset,
    judges: Judges,
    pairs: int,
    progress: Report | None = None,
) -> pa.Table:
    """Table of SPEECH_SCHEMA for the chosen recordings and, if the model converts voices, for at most `pairs`
    conversions within the dataset.

    With a connected cluster, each Ray task takes PART rows. Raises ClusterError.
    """
    predictor = load()
    config = predictor.model.config
    converts = config.speaks and first_with_answer(config.tasks, "phones")
    parts = -(-len(pairs_of(dataset, pairs)) // PART) if converts else 0
    work = [Work(chosen.select(range(len(chosen))[start : start + PART])) for start in range(0, len(chosen), PART)]
    work += [Work(dataset, pairs, (number, parts)) for number in range(parts)]
    if not cluster.connected() or len(work) < 2:
        whole = [Work(chosen), *([Work(dataset, pairs)] if parts else [])]
        return _joined(table for one in whole for table in _judged(predictor, judges, one, progress))
    unloaded = {id(judge): Judge(judge.address, judge.load) for judge in judges.values()}
    remote_judges = {task: unloaded[id(judge)] for task, judge in judges.items()}
    tables: dict[int, pa.Table] = {}
    for number, table in cluster.run_tasks([(load, remote_judges, one) for one in work], judge_part):
        tables[number] = table
        if progress:
            progress(len(tables), len(work), "judging")
    return pa.concat_tables([tables[number] for number in sorted(tables)])


@dataclass(frozen=True)
class Work:
    """Recordings to synthesise or, with `pairs`, at most so many conversions within them.

    part: (number from 0, count) of the share of the pairs.
    """

    dataset: Dataset
    pairs: int = 0
    part: tuple[int, int] = (0, 1)


def judge_part(load: Callable[[], Predictor], judges: Judges, work: Work) -> pa.Table:
    """A Ray task."""
    with one_thread():
        return _joined(_judged(load(), judges, work))


def _judged(predictor: Predictor, judges: Judges, work: Work, progress: Report | None = None) -> Iterator[pa.Table]:
    if work.pairs:
        return conversions(Converter(predictor), work.dataset, judges, work.pairs, progress, work.part)
    return resynthesized(voice_of(predictor), work.dataset, judges, progress)


def _joined(tables: Iterable[pa.Table]) -> pa.Table:
    return pa.concat_tables([SPEECH_SCHEMA.empty_table(), *tables])


def voice_of(predictor: Predictor) -> Voice:
    """The synthesiser of a model that speaks; else its vocoder."""
    return Synthesizer(predictor) if predictor.model.config.speaks else VocoderWrapper.of(predictor)


def spoken_rows(dataset: Dataset, most: int, speaks: bool = True) -> Dataset:
    """At most so many recordings with known phones, those with the smallest hash of their id.

    speaks: False for a vocoder without an acoustic model, which needs waveforms instead of phones.
    """
    column = "durations" if speaks else "wave_part"
    known = np.flatnonzero(dataset.rows[column].is_valid().to_numpy(zero_copy_only=False))
    ids = dataset.rows["id"].take(pa.array(known)).to_pylist()
    return dataset.select(sorted(known[by_hash(ids)[:most]]))


def resynthesized(voice: Voice, dataset: Dataset, judges: Judges, progress: Report | None = None) -> Iterator[pa.Table]:
    """Yields tables of SPEECH_SCHEMA for some recordings at a time, with one row per recording and kind."""
    rows, spec = dataset.rows.to_pylist(), voice.features
    for start in range(0, len(rows), CHUNK):
        part = range(start, min(start + CHUNK, len(rows)))
        chunk = [rows[index] for index in part]
        recordings = [recording_of(row, dataset.store, spec.sample_rate) for row in chunk]
        measured = [Measured.of(wave, spec) for wave in recordings]
        sounds = sounds_of(voice, chunk, recordings, dataset.features(part), [one.hertz for one in measured])
        judged = judged_by(judges, sounds, spec.sample_rate)
        judgements = []
        for number, row in enumerate(chunk):
            for kind, waves in sounds.items():
                distances = {}
                if kind != RECORDING:
                    distances = distance(Measured.of(waves[number], spec), measured[number])
                if kind in SAME_LENGTH:
                    distances["lsd"] = spectral_distance(waves[number], recordings[number])
                labels = {name: row.get(name) for name in ("id", "speaker", "emotion", "text")}
                answers = answers_of(judged, kind, RECORDING, number)
                judgements.append({**labels, "kind": kind, **distances, **answers})
        if progress:
            progress(part.stop, len(rows), "judging")
        yield pa.Table.from_pylist(judgements, schema=SPEECH_SCHEMA)


def sounds_of(
    voice: Voice,
    rows: Sequence[Mapping[str, Any]],
    recordings: list[np.ndarray],
    features: Sequence[np.ndarray],
    hertz: Sequence[np.ndarray],
) -> dict[str, list[np.ndarray]]:
    """Kind -> the sound (N,) of each row at the voice's sample rate, in the order of KINDS; only kinds that apply.

    recordings (N,), features (T, F), hertz (T,): of each row's recording.
    """
    mels = [torch.from_numpy(np.asarray(mel, dtype=np.float32)) for mel in features]
    pairs = [(mel, torch.from_numpy(contour)) for mel, contour in zip(mels, hertz, strict=True)]
    vocoder = voice.vocoder if isinstance(voice, Synthesizer) else voice
    sounds = {RECORDING: recordings, COPY: [vocoder(*pair) for pair in pairs]}
    if vocoder.learned is not None:
        sounds[GRIFFIN_LIM] = [vocoder.griffin_lim(*pair) for pair in pairs]
    if isinstance(voice, Synthesizer):
        mean = torch.tensor([scale.mean for scale in voice.code.mel])
        sounds[SYNTHESIS] = [vocoder(speech.mel, speech.hertz) for speech in synthesized_of(voice, rows)]
        sounds[MEAN] = [vocoder(mean.expand(len(mel), -1)) for mel in mels]
    return {kind: sounds[kind] for kind in KINDS if kind in sounds}


def synthesized_of(voice: Synthesizer, rows: Sequence[Mapping[str, Any]]) -> list[SynthesizedSpeech]:
    """Speech synthesised from the rows' phones, speakers and emotions."""
    phones = [voice.code.number(row["phones"]) for row in rows]
    speakers = [voice.code.speaker(row["speaker"]) for row in rows]
    return voice.synthesize_encoded(phones, speakers, [voice.code.emotion(row["emotion"]) for row in rows])


def counts(table: pa.Table, tasks: Collection[str]) -> dict[str, RowCounts]:
    """Metrics of the gate: for synthesis mel/wer, mel/added_wer (beyond the recording's own), mel/emotion and
    mel/speaker; for copy-synthesis by a trained vocoder waveform/wer and so on."""
    by_kind = {kind: {row["id"]: row for row in table.to_pylist() if row["kind"] == kind} for kind in KINDS}
    by_metric: dict[str, dict[str, tuple[float, float]]] = {}
    judged = [(name, row) for name, kind in KIND_OF_TASK.items() if name in tasks for row in by_kind[kind].values()]
    for name, row in judged:
        id_ = row["id"]
        if row["heard"] is not None and row["text"]:
            words, errors = len(row["text"].split()), word_errors(row["text"], row["heard"])
            before = word_errors(row["text"], by_kind[RECORDING][id_]["heard"])
            by_metric.setdefault(f"{name}/wer", {})[id_] = (errors, words)
            by_metric.setdefault(f"{name}/added_wer", {})[id_] = (errors - before, words)
        for task in task_spec(name).conveys:
            if row[task] is not None and row[f"heard_{task}"] is not None:
                by_metric.setdefault(f"{name}/{task}", {})[id_] = (float(row[task] == row[f"heard_{task}"]), 1.0)
    return {metric: RowCounts(list(rows), np.asarray(list(rows.values()))) for metric, rows in by_metric.items()}


class Figure(NamedTuple):
    """A mean over recordings with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


# (numerator, denominator) of a row of SPEECH_SCHEMA, both summed over rows; rows without a numerator are left out.
FIGURES = {
    "mcd, dB": lambda row: (row["mcd"], 1),
    "lsd, dB": lambda row: (row["lsd"], 1),
    "pitch, cents": lambda row: (row["pitch"], 1),
    "voicing error, %": lambda row: (_percent(row["voicing"]), 1),
    "duration error, %": lambda row: (_percent(row["duration"] and abs(row["duration"])), 1),
    "WER, %": lambda row: _errors(row),
    "emotion, %": lambda row: _agrees(row, "emotion"),
    "speaker, %": lambda row: _agrees(row, "speaker"),
    "likeness": lambda row: (row["likeness"], 1),
}


def figures(table: pa.Table) -> dict[str, dict[str, Figure]]:
    """Kind -> name of FIGURES -> figure: KINDS, then the kinds of conversions.

    The pitch is the mean of the recordings' root mean squares.
    """
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        by_kind.setdefault(row["kind"], []).append(row)
    results: dict[str, dict[str, Figure]] = {}
    for kind in sorted(by_kind, key=lambda kind: (KINDS.index(kind) if kind in KINDS else len(KINDS), kind)):
        for name, figure in FIGURES.items():
            pairs = np.array([pair for pair in map(figure, by_kind[kind]) if pair[0] is not None], dtype=float)
            pairs = pairs[np.isfinite(pairs[:, 0])] if len(pairs) else pairs
            if len(pairs):
                interval = bootstrap_interval(mean, pairs)
                results.setdefault(kind, {})[name] = Figure(float(mean(pairs.sum(axis=0))), *interval)
    return results


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _errors(row: Mapping[str, Any]) -> tuple[float | None, float]:
    if row["heard"] is None or not row["text"]:
        return None, 0
    return 100 * word_errors(row["text"], row["heard"]), len(row["text"].split())


def _agrees(row: Mapping[str, Any], task: str) -> tuple[float | None, float]:
    if row[task] is None or row[f"heard_{task}"] is None:
        return None, 0
    return 100.0 * (row[task] == row[f"heard_{task}"]), 1
