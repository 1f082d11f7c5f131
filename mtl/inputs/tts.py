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

PADDING, UNKNOWN = 0, 1  # of phones; known ones begin at 2
NOBODY = 0  # no speaker or emotion, or one that training lacks; known ones begin at 1
LEAST_DEVIATION = 1e-3


@dataclass(frozen=True)
class TTSExample:
    """One utterance: phones (P,), durations (P,) in frames, pitch and energy (P,) on the code's scales.

    speaker, emotion: numbers of the code; NOBODY where not known.
    """

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
        """Those rows (N,), without columns that are padding in all of them."""
        longest = max(1, int(self.lengths[rows].max())) if len(rows) else 1
        picked = {name: x[rows, :longest] if x.ndim == 2 else x[rows] for name, x in self.tensors().items()}
        return replace(self, **picked)


@dataclass(frozen=True)
class Scale:
    """A quantity's mean and deviation over the training rows."""

    mean: float
    deviation: float

    def down(self, values: np.ndarray) -> np.ndarray:
        """To zero mean and unit deviation; NaN, which is unknown, becomes the mean."""
        return np.nan_to_num((np.asarray(values, dtype=np.float32) - self.mean) / self.deviation)

    def up(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values) * self.deviation + self.mean


@dataclass(frozen=True)
class SpeechCode:
    """Vocabularies and scales of synthesis.

    phonemes: the phonemiser of texts (mtl.tts.phonemes.Phonemiser). mel, hertz: scale and centre of each mel bin.
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
        the bins. hertz (F,): their mtl.audio.features.bin_centres."""
        phones: set[str] = set()
        speakers: set[str] = set()
        emotions: set[str] = set()
        pitch, energy = _Moments(), _Moments()
        voiced: dict[str, list[float]] = {}
        for row in rows:
            for phone, share in zip(row["phones"], row["voiced"], strict=True):
                voiced.setdefault(phone, []).append(share)
            phones.update(row["phones"])
            speakers.update(filter(None, [row.get("speaker")]))
            emotions.update(filter(None, [row.get("emotion")]))
            pitch.add(np.asarray(row["pitch"], dtype=np.float64)[:, None])
            energy.add(np.asarray(row["energy"], dtype=np.float64)[:, None])
        mel = _Moments()
        for array in features:
            mel.add(np.asarray(array, dtype=np.float64))
        return cls(
            phonemes=phonemes,
            phones=tuple(sorted(phones)),
            speakers=tuple(sorted(speakers)),
            emotions=tuple(sorted(emotions)),
            pitch=pitch.scales()[0],
            energy=energy.scales()[0],
            mel=mel.scales(),
            voicing=tuple(_known_mean(voiced[phone]) for phone in sorted(phones)),
            hertz=tuple(round(float(centre), 3) for centre in hertz),
        )

    @cached_property
    def _phone_ids(self) -> dict[str, int]:
        return {phone: position + 2 for position, phone in enumerate(self.phones)}

    def number(self, phones: Sequence[str]) -> np.ndarray:
        """Phones as numbers (P,). A phone that training lacks becomes its unstressed form, if that is known."""
        return np.asarray([self._number(phone) for phone in phones], dtype=np.int64)

    def voiced(self, numbers: np.ndarray) -> np.ndarray:
        """(P,) bool of phones by number: those of which most frames are voiced."""
        return np.append([False, False], np.asarray(self.voicing) > 0.5)[numbers]

    def named(self, numbers: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        """Numbers (P,) as phones, without padding and unknown ones."""
        return tuple(self.phones[number - 2] for number in map(int, numbers) if number > UNKNOWN)

    def _number(self, phone: str) -> int:
        ids = self._phone_ids
        return ids.get(phone) or ids.get(phone.lstrip("',")) or ids.get(f"'{phone}") or UNKNOWN

    def speaker(self, name: str | None) -> int:
        return self.speakers.index(name) + 1 if name in self.speakers else NOBODY

    def emotion(self, name: str | None) -> int:
        return self.emotions.index(name) + 1 if name in self.emotions else NOBODY

    def encode(self, row: Mapping[str, Any]) -> TTSExample | None:
        """A row with phones and durations as numbers; None for any other."""
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
    """Sums over rows of arrays (N, F), NaN left out."""

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
    """A batch of utterances; None if none has phones."""
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
