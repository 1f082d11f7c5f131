"""Sound beside the recording that it should be: how far it is from it, and what other models hear in it.

listeners = listeners_of(registry, recipe.judges)                  # task -> champion, each trained apart
heard = heard_by(listeners, {"synthesis": waves}, rate)               # task -> kind -> predictions
distance(Measured.of(wave, spec), of_recording), answers_of(answers, of_the_recording)      # columns of SAID
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

CHUNK = 16  # recordings said and heard at a time

SAID = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("speaker", pa.string()),  # who was to speak, and how
        pa.field("emotion", pa.string()),
        pa.field("mcd", pa.float64()),  # dB; this and the next three against the recording, see mtl.metrics.distortion
        pa.field("pitch", pa.float64()),  # cents
        pa.field("voicing", pa.float64()),  # share of frames
        pa.field("duration", pa.float64()),  # share of the recording's
        pa.field("lsd", pa.float64()),  # dB; of sounds as long as the recording, see mtl.metrics.distortion
        pa.field("text", pa.string()),  # what was to be said
        pa.field("heard", pa.string()),  # what the listeners heard; null where nobody listened for it
        pa.field("heard_emotion", pa.string()),
        pa.field("heard_speaker", pa.string()),
        pa.field("likeness", pa.float64()),  # cosine of the voice's embedding to the recording's
    ]
)


class MissingJudge(RuntimeError):
    """A model that a recipe wants its speech to be heard by has no champion; the message says how to get one."""


@dataclass(frozen=True)
class Judge:
    """A model that hears speech: the address of its weights, and how to load it, once and not before it is asked."""

    address: str
    load: Callable[[], Predictor]

    @cached_property
    def predictor(self) -> Predictor:
        return self.load()


def judges_of(registry: Registry, judges: Judges) -> dict[str, Judge]:
    """The champions that listen for the words, the emotion and the speaker.

    Raises:
        MissingJudge: one of them is not there, or does not hear what it is asked.
    """
    known: dict[str, Judge] = {}  # one model may listen for several tasks
    found = {}
    for task, name in judges.models.items():
        champion = registry.champion(name)
        if champion is None:
            raise MissingJudge(
                f"judges.{task} is {name!r}, which has no champion in {registry.uri}: `motet nightly {name}` "
                f"makes one, --set judges.{task}=null does without"
            )
        folder = registry.folder(champion.uri)
        if task not in (tasks := describe(folder).tasks):
            raise MissingJudge(f"judges.{task} is {name!r}, whose champion hears {', '.join(tasks)} and no {task}")
        found[task] = known.setdefault(name, Judge(champion.address, partial(Predictor.load, folder)))
    return found


def recording_of(row: Mapping[str, Any], store: Store, rate: int) -> np.ndarray:
    """(N,) float32 at `rate` Hz: the recording of a row of the utterance table."""
    return decode(read_audio(row["audio"], store), rate, row["start"] or 0.0, row["duration"])


def judged_by(
    listeners: Mapping[str, Judge], sounds: Mapping[str, Sequence[np.ndarray]], rate: int
) -> dict[str, dict[str, list[Prediction]]]:
    """Task -> kind of sound -> what the task's listener says of each (N,) at `rate` Hz."""
    found: dict[str, dict[str, list[Prediction]]] = {}
    made: dict[int, dict[str, list[Prediction]]] = {}  # by listener: one may listen for several tasks
    for task, listener in listeners.items():
        if id(listener) not in made:
            ear = listener.predictor
            made[id(listener)] = {
                kind: ear.predict([resample(one, rate, ear.features.sample_rate) for one in some])
                for kind, some in sounds.items()
            }
        found[task] = made[id(listener)]
    return found


@dataclass(frozen=True)
class Measured:
    """A sound's log-mel (T, F) and the pitch of its frames (T,), Hz, 0 where unvoiced."""

    mel: torch.Tensor
    hertz: np.ndarray

    @classmethod
    def of(cls, sound: np.ndarray, spec: FeatureSpec) -> Measured:
        """Of (N,) at the spec's rate."""
        return cls(torch.from_numpy(log_mel(sound, spec)), pitch(sound, spec))


def distance(sound: Measured, true: Measured) -> dict[str, float]:
    """mcd, pitch, voicing and duration of a sound against a recording."""
    found = compare(sound.mel.numpy(), true.mel.numpy(), sound.hertz, true.hertz)
    voiced = {} if math.isnan(found.pitch) else {"pitch": found.pitch}  # no frame where both have a voice
    return {**voiced, "mcd": found.mcd, "voicing": found.voicing, "duration": found.duration}


def answers_of(answers: Mapping[str, Prediction], recording: Mapping[str, Prediction]) -> dict[str, Any]:
    """What each task's judge answers to a sound; recording: what it answers to the recording itself."""
    columns: dict[str, Any] = {}
    for task, prediction in answers.items():
        answer, true = prediction.answers[task], recording[task].answers[task]
        if isinstance(answer, Transcription):
            columns["heard"] = answer.text
        elif isinstance(answer, Label):
            columns[f"heard_{task}"] = answer.value
            if isinstance(true, Label) and answer.embedding is not None and true.embedding is not None:
                voices = torch.from_numpy(np.stack([answer.embedding, true.embedding])).float()
                columns["likeness"] = float(torch.nn.functional.cosine_similarity(voices[0], voices[1], dim=0))
    return columns
