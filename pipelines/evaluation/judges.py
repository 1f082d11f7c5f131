"""Distances of synthesised speech from the recording, and the judge models that recognise what it conveys.

judges = judges_of(registry, recipe.judges)                       # task -> champion, each trained separately
judged = judged_by(judges, {"recording": waves, "synthesis": others}, rate)      # task -> kind -> predictions
distance(Measured.of(wave, spec), of_recording), answers_of(judged, "synthesis", "recording", 0)    # of SPEECH_SCHEMA
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mtl.answers import Label, Prediction, Transcription
from mtl.audio.features import log_mel
from mtl.audio.pitch import pitch
from mtl.config.features import FeatureSpec
from mtl.inference.predictor import Predictor
from mtl.metrics.distortion import compare
from pipelines.packaging.package import describe
from pipelines.recipe import Judges
from pipelines.registry.registry import Registry
from pipelines.sources.audio import decode, resample
from pipelines.sources.open import read_audio
from pipelines.storage.store import Store

CHUNK = 16  # recordings that are synthesised and judged at a time

SPEECH_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("speaker", pa.string()),  # target speaker and emotion
        pa.field("emotion", pa.string()),
        pa.field("mcd", pa.float64()),  # dB; this and the next three: from the recording, see mtl.metrics.distortion
        pa.field("pitch", pa.float64()),  # cents
        pa.field("voicing", pa.float64()),  # share of frames
        pa.field("duration", pa.float64()),  # share of the recording's
        pa.field("lsd", pa.float64()),  # dB; of sounds as long as the recording, see mtl.metrics.distortion
        pa.field("text", pa.string()),  # of the input
        pa.field("heard", pa.string()),  # answers of the judges; null where there is no judge for the task
        pa.field("heard_emotion", pa.string()),
        pa.field("heard_speaker", pa.string()),
        pa.field("likeness", pa.float64()),  # cosine of the speaker embedding to that of the recording
    ]
)


class MissingJudge(RuntimeError):
    """A judge model of the recipe has no champion, or lacks the task; the message says how to train one."""


@dataclass(frozen=True)
class Judge:
    """A model that judges speech: address of its weights, and how to load it. It is loaded on first use."""

    address: str
    load: Callable[[], Predictor]

    @cached_property
    def predictor(self) -> Predictor:
        return self.load()


def judges_of(registry: Registry, settings: Judges) -> dict[str, Judge]:
    """Task -> the champion that judges it: transcript, emotion or speaker. Raises MissingJudge."""
    by_model: dict[str, Judge] = {}  # one model may judge several tasks
    judges = {}
    for task, name in settings.models.items():
        champion = registry.champion(name)
        if champion is None:
            raise MissingJudge(
                f"judges.{task} is {name!r}, which has no champion in {registry.uri}: `motet nightly {name}` "
                f"makes one, --set judges.{task}=null evaluates without it"
            )
        folder = registry.folder(champion.uri)
        if task not in (tasks := describe(folder).tasks):
            raise MissingJudge(f"judges.{task} is {name!r}, whose champion has {', '.join(tasks)} and no {task}")
        judges[task] = by_model.setdefault(name, Judge(champion.address, partial(Predictor.load, folder)))
    return judges


def recording_of(row: Mapping[str, Any], store: Store, rate: int) -> np.ndarray:
    """(N,) float32 at `rate` Hz: the recording of a row of the utterance table."""
    return decode(read_audio(row["audio"], store), rate, row["start"] or 0.0, row["duration"])


def judged_by(
    judges: Mapping[str, Judge], sounds: Mapping[str, Sequence[np.ndarray]], rate: int
) -> dict[str, dict[str, list[Prediction]]]:
    """Task -> kind of sound -> prediction of the task's judge for each sound (N,), at `rate` Hz."""
    predictions: dict[int, dict[str, list[Prediction]]] = {}  # by judge, as one may judge several tasks
    for judge in judges.values():
        if id(judge) not in predictions:
            own_rate = judge.predictor.features.sample_rate
            predictions[id(judge)] = {
                kind: judge.predictor.predict([resample(wave, rate, own_rate) for wave in waves])
                for kind, waves in sounds.items()
            }
    return {task: predictions[id(judge)] for task, judge in judges.items()}


@dataclass(frozen=True)
class Measured:
    """A sound's log-mel (T, F) and the pitch of its frames (T,), Hz, 0 where unvoiced."""

    mel: np.ndarray
    hertz: np.ndarray

    @classmethod
    def of(cls, sound: np.ndarray, spec: FeatureSpec) -> Measured:
        """Of (N,) at the spec's rate."""
        return cls(log_mel(sound, spec), pitch(sound, spec))


def distance(sound: Measured, recording: Measured) -> dict[str, float]:
    """mcd, pitch, voicing and duration of a sound relative to a recording; no pitch if no frame is voiced in both."""
    distances = asdict(compare(sound.mel, recording.mel, sound.hertz, recording.hertz))
    return {name: value for name, value in distances.items() if not math.isnan(value)}


def answers_of(
    judged: Mapping[str, Mapping[str, Sequence[Prediction]]], kind: str, reference: str, number: int
) -> dict[str, Any]:
    """Columns with each judge's answer to a sound. reference: kind of the recording that the voice is compared with."""
    columns: dict[str, Any] = {}
    for task, predictions in judged.items():
        answer, true = (predictions[name][number].answers[task] for name in (kind, reference))
        if isinstance(answer, Transcription):
            columns["heard"] = answer.text
        elif isinstance(answer, Label):
            columns[f"heard_{task}"] = answer.value
            if isinstance(true, Label) and answer.embedding is not None and true.embedding is not None:
                one, other = (torch.as_tensor(voice.embedding).float() for voice in (answer, true))
                columns["likeness"] = float(torch.nn.functional.cosine_similarity(one, other, dim=0))
    return columns
