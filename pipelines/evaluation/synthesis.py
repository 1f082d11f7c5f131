"""What a voice or a vocoder is worth: its sound beside the true one, and what other models, trained apart, hear in it.

    said = listened(store, address, load, listeners, test, 200)      # a row a recording and KIND
    for line in figures(said): …                                                   # a line a KIND, for people
    scores.with_counts(counts(said, tasks))                                        # "mel/wer" …, for the gate

Test recordings are said again from their phones, by their speaker, with their emotion; durations and pitch are the
model's own. Each stands beside the recording itself, beside its own log-mel and pitch turned back into sound (which no
model can beat that ends in this vocoder), and beside the mean log-mel of training, which says nothing at all. A trained
vocoder's sound stands beside that of Griffin-Lim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from pipelines.evaluation.judges import CHUNK, SAID, Judge, Measured, answers_of, distance, judged_by, recording_of
from pipelines.sources.segments import one_thread
from pipelines.storage.store import Store, fingerprint

VERSION = 3  # bump when the same models on the same rows would get other figures
RECORDING, GRIFFIN_LIM, COPY, SYNTHESIS, MEAN = KINDS = (
    *("recording", "copy by Griffin-Lim", "copy-synthesis", "synthesis", "mean log-mel"),
)
AS_LONG = (GRIFFIN_LIM, COPY, MEAN)  # as the recording, sample by sample
PART = 32  # recordings, or pairs of them, in one Ray task
MADE = {"mel": SYNTHESIS, "waveform": COPY}  # task -> what it makes, to be heard
Voice = Synthesizer | VocoderWrapper


def listened(
    store: Store,
    address: str,
    load: Callable[[], Predictor],
    listeners: Mapping[str, Judge],
    dataset: Dataset,
    rows: int,
    progress: Report | None = None,
    speaks: bool = True,
) -> pa.Table:
    """SAID of the model with this address on these rows, `rows` of them at most: read if it was made before.

    speaks: as of `spoken_rows`.
    """
    chosen = spoken_rows(dataset, rows, speaks)
    ears = sorted((task, listener.address) for task, listener in listeners.items())
    ids = chosen.rows["id"].to_pylist()
    key = f"evaluations/speech-{fingerprint(address, ears, dataset.identity, ids, VERSION)}.parquet"
    if not store.exists(key):
        store.write_table(key, synthesized_by(load, chosen, dataset, listeners, rows, progress))
    return store.read_table(key)


def synthesized_by(
    load: Callable[[], Predictor],
    chosen: Dataset,
    dataset: Dataset,
    listeners: Mapping[str, Judge],
    pairs: int,
    progress: Report | None = None,
) -> pa.Table:
    """SAID of the chosen recordings and, of a voice that hears phones, of conversions within the dataset.

    PART rows in a Ray task, where a cluster is up; else in this process.

    Raises:
        ClusterError: the cluster cannot be used.
    """
    predictor = load()
    config = predictor.model.config
    converted = len(pairs_of(dataset, pairs)) if config.speaks and first_with_answer(config.tasks, "phones") else 0
    rows, parts = range(len(chosen)), -(-converted // PART)
    work = [Work(chosen.select(rows[start : start + PART])) for start in rows[::PART]]
    work += [Work(dataset, pairs, (number, parts)) for number in range(parts)]
    if not cluster.connected() or len(work) < 2:
        whole = [Work(chosen), *([Work(dataset, pairs)] if converted else [])]
        tables = [table for one in whole for table in worked(predictor, listeners, one, progress)]
        return pa.concat_tables(tables) if tables else SAID.empty_table()
    unloaded = {id(listener): Judge(listener.address, listener.load) for listener in listeners.values()}
    ears = {task: unloaded[id(listener)] for task, listener in listeners.items()}
    found: dict[int, pa.Table] = {}
    for number, table in cluster.run_tasks([(load, ears, one) for one in work], work_part):
        found[number] = table
        if progress:
            progress(len(found), len(work), "listening")
    return pa.concat_tables([found[number] for number in sorted(found)])


@dataclass(frozen=True)
class Work:
    """Recordings to be said again or, with `pairs`, conversions within them, so many at most; part: of these, its
    number from 0 and of how many."""

    dataset: Dataset
    pairs: int = 0
    part: tuple[int, int] = (0, 1)


def work_part(load: Callable[[], Predictor], listeners: Mapping[str, Judge], work: Work) -> pa.Table:
    """SAID of some work: one Ray task."""
    with one_thread():
        tables = list(worked(load(), listeners, work))
        return pa.concat_tables(tables) if tables else SAID.empty_table()


def worked(
    predictor: Predictor, listeners: Mapping[str, Judge], work: Work, progress: Report | None = None
) -> Iterator[pa.Table]:
    """Tables of SAID, some rows at a time."""
    if work.pairs:
        return conversions(Converter(predictor), work.dataset, listeners, work.pairs, progress, work.part)
    return resynthesized(voice_of(predictor), work.dataset, listeners, progress)


def voice_of(predictor: Predictor) -> Voice:
    """A model that speaks, or one that has a vocoder alone."""
    return Synthesizer(predictor) if predictor.model.config.speaks else VocoderWrapper.of(predictor)


def spoken_rows(dataset: Dataset, most: int, speaks: bool = True) -> Dataset:
    """The recordings whose phones are known, at most so many, those with the smallest hash of their id.

    speaks: False for a vocoder alone, which needs to know their waveforms.
    """
    column = "durations" if speaks else "wave_part"
    known = np.flatnonzero(dataset.rows[column].is_valid().to_numpy(zero_copy_only=False))
    ids = dataset.rows["id"].take(pa.array(known)).to_pylist()
    return dataset.select(sorted(known[by_hash(ids)[:most]]))


def resynthesized(
    voice: Voice, dataset: Dataset, listeners: Mapping[str, Judge], progress: Report | None = None
) -> Iterator[pa.Table]:
    """Tables of SAID, some recordings at a time, each with those of KINDS that there are one below the other."""
    rows = dataset.rows.to_pylist()
    for start in range(0, len(rows), CHUNK):
        part = range(start, min(start + CHUNK, len(rows)))
        some = [rows[index] for index in part]
        recordings = [recording_of(row, dataset.store, voice.features.sample_rate) for row in some]
        true = [Measured.of(wave, voice.features) for wave in recordings]
        sounds = sounds_of(voice, some, recordings, dataset.features(part), [one.hertz for one in true])
        heard = judged_by(listeners, sounds, voice.features.sample_rate)
        found = []
        for number, row in enumerate(some):
            for kind in sounds:
                answers = {task: predictions[kind][number] for task, predictions in heard.items()}
                own = {task: predictions[RECORDING][number] for task, predictions in heard.items()}
                off = {}
                if kind != RECORDING:
                    off = distance(Measured.of(sounds[kind][number], voice.features), true[number])
                if kind in AS_LONG:
                    off["lsd"] = spectral_distance(sounds[kind][number], recordings[number])
                found.append(
                    {
                        **{name: row.get(name) for name in ("id", "speaker", "emotion", "text")},
                        "kind": kind,
                        **off,
                        **answers_of(answers, own),
                    }
                )
        if progress:
            progress(part.stop, len(rows), "listening")
        yield pa.Table.from_pylist(found, schema=SAID)


def sounds_of(
    voice: Voice,
    rows: Sequence[Mapping[str, Any]],
    recordings: list[np.ndarray],
    features: Sequence[np.ndarray],
    hertz: Sequence[np.ndarray],
) -> dict[str, list[np.ndarray]]:
    """KIND -> the sound (N,) of each row at the voice's sample rate, of the kinds that there are, in their order.

    recordings (N,), features (T, F), hertz (T,): of each row's recording.
    """
    true = [torch.from_numpy(np.asarray(mel, dtype=np.float32)) for mel in features]
    pairs = [(mel, torch.from_numpy(line)) for mel, line in zip(true, hertz, strict=True)]
    sounding = voice.vocoder if isinstance(voice, Synthesizer) else voice
    made = {RECORDING: recordings, COPY: [sounding(*pair) for pair in pairs]}
    if sounding.learned is not None:
        made[GRIFFIN_LIM] = [sounding.griffin_lim(*pair) for pair in pairs]
    if isinstance(voice, Synthesizer):
        mean = torch.tensor([scale.mean for scale in voice.code.mel])
        made[SYNTHESIS] = [sounding(uttered.mel, uttered.hertz) for uttered in synthesized_of(voice, rows)]
        made[MEAN] = [sounding(mean.expand(len(mel), -1)) for mel in true]
    return {kind: made[kind] for kind in KINDS if kind in made}


def synthesized_of(voice: Synthesizer, rows: Sequence[Mapping[str, Any]]) -> list[SynthesizedSpeech]:
    """The rows' phones, said by their speakers, with their emotions."""
    phones = [voice.code.number(row["phones"]) for row in rows]
    speakers = [voice.code.speaker(row["speaker"]) for row in rows]
    return voice.synthesize_encoded(phones, speakers, [voice.code.emotion(row["emotion"]) for row in rows])


def counts(said: pa.Table, tasks: Collection[str]) -> dict[str, RowCounts]:
    """For the gate, of the synthesis mel/wer, mel/added_wer beyond the recordings' own, mel/emotion, mel/speaker, and
    waveform/wer … of what a trained vocoder makes of the recordings."""
    by_kind = {kind: {row["id"]: row for row in said.to_pylist() if row["kind"] == kind} for kind in KINDS}
    found: dict[str, dict[str, tuple[float, float]]] = {}
    made = [(name, row) for name, kind in MADE.items() if name in tasks for row in by_kind[kind].values()]
    for name, row in made:
        id_ = row["id"]
        if row["heard"] is not None and row["text"]:
            words, errors = len(row["text"].split()), word_errors(row["text"], row["heard"])
            before = word_errors(row["text"], by_kind[RECORDING][id_]["heard"])
            found.setdefault(f"{name}/wer", {})[id_] = (errors, words)
            found.setdefault(f"{name}/added_wer", {})[id_] = (errors - before, words)
        for task in task_spec(name).conveys:
            if row[task] is not None and row[f"heard_{task}"] is not None:
                found.setdefault(f"{name}/{task}", {})[id_] = (float(row[task] == row[f"heard_{task}"]), 1.0)
    return {metric: RowCounts(list(rows), np.asarray(list(rows.values()))) for metric, rows in found.items()}


class Figure(NamedTuple):
    """A mean over recordings with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


# Of a row of SAID: what is summed, and what it is divided by. Rows where either is not known are left out.
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


def figures(said: pa.Table) -> dict[str, dict[str, Figure]]:
    """Kind -> what there is of FIGURES: KINDS, then those of conversions.

    The pitch is a mean of the recordings' root mean squares.
    """
    rows = said.to_pylist()
    found: dict[str, dict[str, Figure]] = {}
    for kind in sorted(
        {row["kind"] for row in rows}, key=lambda kind: (KINDS.index(kind) if kind in KINDS else 9, kind)
    ):
        for name, of in FIGURES.items():
            pairs = [of(row) for row in rows if row["kind"] == kind]
            known = np.array([pair for pair in pairs if pair[0] is not None and math.isfinite(pair[0])], dtype=float)
            if len(known):
                found.setdefault(kind, {})[name] = _figure(known)
    return found


def _figure(pairs: np.ndarray) -> Figure:
    """Of (N, 2): the sum of the first over the sum of the second."""
    return Figure(float(mean(pairs.sum(axis=0))), *bootstrap_interval(mean, pairs))


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
