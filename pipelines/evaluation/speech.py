"""What a voice is worth: its sound beside the true one, and what other models, trained apart, hear in it.

    said = listened(store, address, load, listeners, test, 200)      # a row a recording and KIND
    for line in figures(said): …                                                   # a line a KIND, for people
    scores.with_counts(counts(said))                                               # "mel/wer" …, for the gate

Test recordings are said again from their phones, by their speaker, with their emotion; durations and pitch are the
model's own. Each stands beside the recording itself, beside its own log-mel turned back into sound (which no model can
beat that ends in this vocoder), and beside the mean log-mel of training, which says nothing at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import soxr
import torch

from mtl.audio import log_mel
from mtl.distortion import compare
from mtl.metrics import word_errors
from mtl.predictor import Prediction, Predictor
from mtl.speaking import Uttered, speak
from mtl.synthesiser import Synthesiser
from pipelines.data.dataset import by_hash
from pipelines.data.pitch import pitch
from pipelines.data.sound import decode
from pipelines.data.source import read_audio
from pipelines.evaluation.gates import RowCounts
from pipelines.store import Store, fingerprint

if TYPE_CHECKING:
    from pipelines.data.dataset import Dataset
    from pipelines.progress import Report
    from pipelines.recipe import Listening
    from pipelines.registry.registry import Registry

VERSION = 1  # bump when the same models on the same rows would get other figures
RECORDING, COPY, SYNTHESIS, MEAN = KINDS = ("recording", "copy-synthesis", "synthesis", "mean log-mel")
CHUNK = 16  # recordings said and heard at a time
RESAMPLES = 1000

SAID = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("speaker", pa.string()),  # who was to speak, and how
        pa.field("emotion", pa.string()),
        pa.field("mcd", pa.float64()),  # dB; this and the next three against the recording, see mtl.distortion
        pa.field("pitch", pa.float64()),  # cents
        pa.field("voicing", pa.float64()),  # share of frames
        pa.field("duration", pa.float64()),  # share of the recording's
        pa.field("text", pa.string()),  # what was to be said
        pa.field("heard", pa.string()),  # what the listeners heard; null where nobody listened for it
        pa.field("heard_emotion", pa.string()),
        pa.field("heard_speaker", pa.string()),
        pa.field("likeness", pa.float64()),  # cosine of the voice's embedding to the recording's
    ]
)


class NoListener(RuntimeError):
    """A model that a recipe wants its speech to be heard by has no champion; the message says how to get one."""


@dataclass(frozen=True)
class Listener:
    """A model that hears speech, and the address of its weights."""

    predictor: Predictor
    address: str


def listeners_of(registry: Registry, listening: Listening) -> dict[str, Listener]:
    """The champions that listen for the words, the emotion and the speaker.

    Raises:
        NoListener: one of them is not there, or does not hear what it is asked.
    """
    loaded: dict[str, Listener] = {}
    found = {}
    for task, name in listening.models.items():
        if name not in loaded:
            champion = registry.champion(name)
            if champion is None:
                raise NoListener(
                    f"listening.{task} is {name!r}, which has no champion in {registry.uri}: `motet nightly {name}` "
                    f"makes one, --set listening.{task}=null does without"
                )
            loaded[name] = Listener(registry.load(champion.uri), champion.address)
        if task not in (tasks := loaded[name].predictor.model.config.tasks):
            raise NoListener(f"listening.{task} is {name!r}, whose champion hears {', '.join(tasks)} and no {task}")
        found[task] = loaded[name]
    return found


def listened(
    store: Store,
    address: str,
    load: Callable[[], Synthesiser],
    listeners: Mapping[str, Listener],
    dataset: Dataset,
    rows: int,
    progress: Report | None = None,
) -> pa.Table:
    """SAID of the model with this address on these rows, `rows` of them at most: read if it was made before."""
    chosen = spoken_rows(dataset, rows)
    heard_by = sorted((task, listener.address) for task, listener in listeners.items())
    ids = chosen.rows["id"].to_pylist()
    key = f"evaluations/speech-{fingerprint(address, heard_by, chosen.identity, ids, VERSION)}.parquet"
    if not store.exists(key):
        parts = list(said_again(load(), chosen, listeners, progress))
        store.write_table(key, pa.concat_tables(parts) if parts else SAID.empty_table())
    return store.read_table(key)


def spoken_rows(dataset: Dataset, most: int) -> Dataset:
    """The recordings whose phones are known, at most so many, those with the smallest hash of their id."""
    known = np.flatnonzero(dataset.rows["durations"].is_valid().to_numpy(zero_copy_only=False))
    ids = dataset.rows["id"].take(pa.array(known)).to_pylist()
    return dataset.select(sorted(known[by_hash(ids)[:most]]))


def said_again(
    voice: Synthesiser, dataset: Dataset, listeners: Mapping[str, Listener], progress: Report | None = None
) -> Iterator[pa.Table]:
    """Tables of SAID, some recordings at a time, each with its KINDS one below the other."""
    rows = dataset.rows.to_pylist()
    for start in range(0, len(rows), CHUNK):
        part = range(start, min(start + CHUNK, len(rows)))
        some = [rows[index] for index in part]
        sounds = sounds_of(voice, some, dataset.features(part), dataset.store)
        heard = {task: _heard(listener.predictor, sounds, voice) for task, listener in listeners.items()}
        found = []
        for number, row in enumerate(some):
            true = sounds[RECORDING][number]
            for kind in KINDS:
                answers = {task: predictions[kind][number] for task, predictions in heard.items()}
                own = heard["speaker"][RECORDING][number] if "speaker" in heard else None
                found.append(
                    {
                        **{name: row.get(name) for name in ("id", "speaker", "emotion", "text")},
                        "kind": kind,
                        **(_distance(sounds[kind][number], true, voice) if kind != RECORDING else {}),
                        **_answers(answers, own),
                    }
                )
        if progress:
            progress(part.stop, len(rows), "listening")
        yield pa.Table.from_pylist(found, schema=SAID)


def sounds_of(
    voice: Synthesiser, rows: Sequence[Mapping[str, Any]], features: Sequence[np.ndarray], store: Store
) -> dict[str, list[np.ndarray]]:
    """KIND -> the sound (N,) of each row at the voice's sample rate."""
    true = [torch.from_numpy(np.asarray(mel, dtype=np.float32)) for mel in features]
    rate = voice.features.sample_rate
    mean = torch.tensor([scale.mean for scale in voice.code.mel])
    return {
        RECORDING: [
            decode(read_audio(row["audio"], store), rate, row["start"] or 0.0, row["duration"]) for row in rows
        ],
        COPY: [voice.sound(mel) for mel in true],
        SYNTHESIS: [voice.sound(uttered.mel) for uttered in uttered_of(voice, rows)],
        MEAN: [voice.sound(mean.expand(len(mel), -1)) for mel in true],
    }


def uttered_of(voice: Synthesiser, rows: Sequence[Mapping[str, Any]]) -> list[Uttered]:
    """The rows' phones, said by their speakers, with their emotions."""
    phones = [voice.code.number(row["phones"]) for row in rows]
    speakers = [voice.code.speaker(row["speaker"]) for row in rows]
    return speak(voice.model, phones, speakers, [voice.code.emotion(row["emotion"]) for row in rows])


def _heard(
    listener: Predictor, sounds: Mapping[str, Sequence[np.ndarray]], voice: Synthesiser
) -> dict[str, list[Prediction]]:
    """KIND -> what the listener says of each sound."""
    ours, theirs = voice.features.sample_rate, listener.features.sample_rate
    return {
        kind: listener.predict([one if ours == theirs else soxr.resample(one, ours, theirs) for one in some])
        for kind, some in sounds.items()
    }


def _distance(sound: np.ndarray, true: np.ndarray, voice: Synthesiser) -> dict[str, float]:
    spec = voice.features
    mel, true_mel = (torch.from_numpy(log_mel(wave, spec)) for wave in (sound, true))
    found = compare(mel, true_mel, pitch(sound, spec), pitch(true, spec))
    voiced = {} if math.isnan(found.pitch) else {"pitch": found.pitch}  # no frame where both have a voice
    return {**voiced, "mcd": found.mcd, "voicing": found.voicing, "duration": found.duration}


def _answers(answers: Mapping[str, Prediction], recording: Prediction | None) -> dict[str, Any]:
    """What was heard; recording: what the listener for the speaker says of the recording itself."""
    found: dict[str, Any] = {}
    if "transcript" in answers:
        found["heard"] = answers["transcript"].text
    for task in ("emotion", "speaker"):
        if task in answers:
            found[f"heard_{task}"] = answers[task].labels[task].value
    if recording is not None and recording.voice is not None and answers["speaker"].voice is not None:
        voices = torch.from_numpy(np.stack([answers["speaker"].voice, recording.voice])).float()
        found["likeness"] = float(torch.nn.functional.cosine_similarity(voices[0], voices[1], dim=0))
    return found


def counts(said: pa.Table) -> dict[str, RowCounts]:
    """Of the synthesis, for the gate: mel/wer, mel/added_wer beyond the recordings' own, mel/emotion, mel/speaker."""
    by_kind = {kind: {row["id"]: row for row in said.to_pylist() if row["kind"] == kind} for kind in KINDS}
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for id_, row in by_kind[SYNTHESIS].items():
        if row["heard"] is not None and row["text"]:
            words, errors = len(row["text"].split()), word_errors(row["text"], row["heard"])
            before = word_errors(row["text"], by_kind[RECORDING][id_]["heard"])
            found.setdefault("mel/wer", {})[id_] = (errors, words)
            found.setdefault("mel/added_wer", {})[id_] = (errors - before, words)
        for task in ("emotion", "speaker"):
            if row[task] is not None and row[f"heard_{task}"] is not None:
                found.setdefault(f"mel/{task}", {})[id_] = (float(row[task] == row[f"heard_{task}"]), 1.0)
    return {metric: RowCounts(list(rows), np.asarray(list(rows.values()))) for metric, rows in found.items()}


@dataclass(frozen=True)
class Figure:
    """A mean over recordings with its 95 % bootstrap interval; all NaN where there is nothing to be told."""

    value: float
    low: float
    high: float


# Of a row of SAID: what is summed, and what it is divided by. Rows where either is not known are left out.
FIGURES = {
    "mcd, dB": lambda row: (row["mcd"], 1),
    "pitch, cents": lambda row: (row["pitch"], 1),
    "voicing error, %": lambda row: (_percent(row["voicing"]), 1),
    "duration error, %": lambda row: (_percent(row["duration"] and abs(row["duration"])), 1),
    "WER, %": lambda row: _errors(row),
    "emotion, %": lambda row: _agrees(row, "emotion"),
    "speaker, %": lambda row: _agrees(row, "speaker"),
    "likeness": lambda row: (row["likeness"], 1),
}


def figures(said: pa.Table) -> dict[str, dict[str, Figure]]:
    """KIND -> what there is of FIGURES. The pitch is a mean of the recordings' root mean squares."""
    rows = said.to_pylist()
    found: dict[str, dict[str, Figure]] = {}
    for kind in KINDS:
        for name, of in FIGURES.items():
            pairs = [of(row) for row in rows if row["kind"] == kind]
            known = np.array([pair for pair in pairs if pair[0] is not None and math.isfinite(pair[0])], dtype=float)
            if len(known):
                found.setdefault(kind, {})[name] = _figure(known)
    return found


def _figure(pairs: np.ndarray) -> Figure:
    """Of (N, 2): the sum of the first over the sum of the second."""
    drawn = np.random.default_rng(0).multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=RESAMPLES)
    sums = drawn @ pairs
    low, high = np.nanquantile(sums[:, 0] / np.maximum(sums[:, 1], 1e-12), [0.025, 0.975])
    total = pairs.sum(axis=0)
    return Figure(float(total[0] / total[1]), float(low), float(high))


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
