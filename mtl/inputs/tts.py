"""Inputs and targets of synthesis as numbers: phones with duration, pitch and energy, speaker and emotion.

    code = SpeechCode.build(rows, features, phonemes="gmw/en-us", hertz=bin_centres(spec))   # from the training rows
    example = code.encode(row)                                                               # TTSExample
    batch = pad(examples)                                                                    # TTSBatch

Pitch, energy and log-mel have zero mean and unit deviation over the training rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtl.inputs.group import Inputs

PADDING, UNKNOWN = 0, 1  # phones; known ones begin at 2
NOBODY = 0  # an unknown speaker or emotion; known ones begin at 1
LEAST_DEVIATION = 1e-3


@dataclass(frozen=True)
class TTSExample:
    """One utterance: phones (P,), durations (P,) in frames, standardised pitch and energy (P,), numbers of speaker and
    emotion, NOBODY if unknown."""

    phones: np.ndarray
    durations: np.ndarray
    pitch: np.ndarray
    energy: np.ndarray
    speaker: int
    emotion: int


@dataclass(frozen=True)
class TTSBatch(Inputs):
    """Utterances of a batch, padded with zeros; a row without phones has length 0.

    phones (B, P), lengths (B,), durations (B, P) in frames, pitch, energy (B, P), speakers, emotions (B,).
    """

    phones: Tensor
    durations: Tensor
    pitch: Tensor
    energy: Tensor
    speakers: Tensor
    emotions: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def select(self, rows: Tensor) -> TTSBatch:
        """Selects rows (N,), without columns that are padding in all of them."""
        longest = max(1, int(self.lengths[rows].max())) if len(rows) else 1
        picked = {name: x[rows, :longest] if x.ndim == 2 else x[rows] for name, x in self.tensors().items()}
        return replace(self, **picked)


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of a quantity over the training rows."""

    mean: float
    deviation: float

    def down(self, values: np.ndarray) -> np.ndarray:
        """Standardises values; NaN (unknown) becomes the mean."""
        return np.nan_to_num((np.asarray(values, dtype=np.float32) - self.mean) / self.deviation)

    def up(self, values: np.ndarray) -> np.ndarray:
        """Inverse of `down`."""
        return np.asarray(values) * self.deviation + self.mean


@dataclass(frozen=True)
class SpeechCode:
    """Vocabularies and scales of synthesis.

    phonemes: kind of the phonemiser (mtl.tts.phonemes.Phonemiser). mel, hertz: scale and centre of each mel bin.
    voicing: share of voiced frames of each phone.
    """

    phonemes: str
    phones: tuple[str, ...]
    speakers: tuple[str, ...]
    emotions: tuple[str, ...]
    pitch: Scale
    energy: Scale
    mel: tuple[Scale, ...]
    hertz: tuple[float, ...]
    voicing: tuple[float, ...]

    @classmethod
    def build(
        cls,
        rows: Iterable[Mapping[str, Any]],
        features: Iterable[np.ndarray],
        phonemes: str,
        hertz: Sequence[float] | np.ndarray,
    ) -> SpeechCode:
        """rows: training rows with `phones`, `pitch`, `energy`, `voiced`. features: log-mels (T, F) for the scales of
        the bins. hertz (F,): mtl.audio.features.bin_centres."""
        speakers: set[str | None] = set()
        emotions: set[str | None] = set()
        pitch, energy, mel = _Moments(), _Moments(), _Moments()
        voiced: dict[str, list[float]] = {}
        for row in rows:
            for phone, share in zip(row["phones"], row["voiced"], strict=True):
                voiced.setdefault(phone, []).append(share)
            speakers.add(row.get("speaker"))
            emotions.add(row.get("emotion"))
            pitch.add(np.asarray(row["pitch"], dtype=np.float64)[:, None])
            energy.add(np.asarray(row["energy"], dtype=np.float64)[:, None])
        for array in features:
            mel.add(np.asarray(array, dtype=np.float64))
        return cls(
            phonemes=phonemes,
            phones=tuple(sorted(voiced)),
            speakers=tuple(sorted(filter(None, speakers))),
            emotions=tuple(sorted(filter(None, emotions))),
            pitch=pitch.scales()[0],
            energy=energy.scales()[0],
            mel=mel.scales(),
            voicing=tuple(_known_mean(voiced[phone]) for phone in sorted(voiced)),
            hertz=tuple(round(float(centre), 3) for centre in hertz),
        )

    @cached_property
    def _phone_ids(self) -> dict[str, int]:
        return {phone: position + 2 for position, phone in enumerate(self.phones)}

    def number(self, phones: Sequence[str]) -> np.ndarray:
        """Numbers (P,) of phones. An unknown phone is replaced by its form with another stress, if that is known."""
        ids = self._phone_ids
        numbers = [ids.get(one) or ids.get(one.lstrip("',")) or ids.get(f"'{one}") or UNKNOWN for one in phones]
        return np.asarray(numbers, dtype=np.int64)

    def voiced(self, numbers: np.ndarray) -> np.ndarray:
        """(P,) bool: numbers of phones most of whose frames are voiced."""
        return np.append([False, False], np.asarray(self.voicing) > 0.5)[numbers]

    def named(self, numbers: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        """Phones of numbers (P,), without padding and unknown ones."""
        return tuple(self.phones[number - 2] for number in map(int, numbers) if number > UNKNOWN)

    def speaker(self, name: str | None) -> int:
        return self.speakers.index(name) + 1 if name in self.speakers else NOBODY

    def emotion(self, name: str | None) -> int:
        return self.emotions.index(name) + 1 if name in self.emotions else NOBODY

    def encode(self, row: Mapping[str, Any]) -> TTSExample | None:
        """Encodes a row; None if it has no phones or durations."""
        if not row.get("phones") or row.get("durations") is None:
            return None
        return TTSExample(
            phones=self.number(row["phones"]),
            durations=np.asarray(row["durations"], dtype=np.int64),
            pitch=self.pitch.down(row["pitch"]),
            energy=self.energy.down(row["energy"]),
            speaker=self.speaker(row.get("speaker")),
            emotion=self.emotion(row.get("emotion")),
        )

    def to_json(self) -> dict[str, Any]:
        content = asdict(self)
        content["mel"] = {"mean": [s.mean for s in self.mel], "deviation": [s.deviation for s in self.mel]}
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SpeechCode:
        mel = content["mel"]
        return cls(
            phonemes=content["phonemes"],
            phones=tuple(content["phones"]),
            speakers=tuple(content["speakers"]),
            emotions=tuple(content["emotions"]),
            pitch=Scale(**content["pitch"]),
            energy=Scale(**content["energy"]),
            hertz=tuple(content["hertz"]),
            voicing=tuple(content["voicing"]),
            mel=tuple(Scale(*pair) for pair in zip(mel["mean"], mel["deviation"], strict=True)),
        )


def _known_mean(shares: Sequence[float]) -> float:
    known = [share for share in shares if not math.isnan(share)]
    return round(sum(known) / len(known), 4) if known else 0.0


class _Moments:
    """Sums of arrays (N, F) over N, without NaN."""

    def __init__(self) -> None:
        self.count: Any = 0.0
        self.total: Any = 0.0
        self.squares: Any = 0.0

    def add(self, values: np.ndarray) -> None:
        known = ~np.isnan(values)
        values = np.where(known, values, 0.0)
        self.count = self.count + known.sum(axis=0)
        self.total = self.total + values.sum(axis=0)
        self.squares = self.squares + np.square(values).sum(axis=0)

    def scales(self) -> tuple[Scale, ...]:
        count = np.maximum(self.count, 1)
        mean = self.total / count
        variance = np.maximum(self.squares / count - np.square(mean), LEAST_DEVIATION**2)
        return tuple(
            Scale(float(m), math.sqrt(v)) for m, v in zip(np.atleast_1d(mean), np.atleast_1d(variance), strict=True)
        )


def pad(examples: Sequence[TTSExample | None]) -> TTSBatch | None:
    """Pads utterances into a batch; None if none has phones."""
    if not any(example is not None for example in examples):
        return None
    lengths = [len(example.phones) if example is not None else 0 for example in examples]
    shape = (len(examples), max(lengths))
    ints = {name: np.zeros(shape, dtype=np.int64) for name in ("phones", "durations")}
    floats = {name: np.zeros(shape, dtype=np.float32) for name in ("pitch", "energy")}
    for row, example in enumerate(examples):
        if example is not None:
            for name, array in (ints | floats).items():
                array[row, : lengths[row]] = getattr(example, name)
    arrays = {name: torch.from_numpy(array) for name, array in (ints | floats).items()}
    return TTSBatch(
        lengths=torch.tensor(lengths),
        speakers=torch.tensor([NOBODY if one is None else one.speaker for one in examples]),
        emotions=torch.tensor([NOBODY if one is None else one.emotion for one in examples]),
        **arrays,
    )
