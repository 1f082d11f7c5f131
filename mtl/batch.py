"""What a model is fed: `Example` is one utterance as numbers, `Batch` several of them, padded.

A batch holds rows of one input group: "audio" (features, with the transcript's words where known) or
"text" (words alone). A label that is missing is IGNORE, and a task's mask says which rows it may train on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtl.speech import Said, Spoken, pad

IGNORE = -100  # the label that torch's cross_entropy leaves out


@dataclass(frozen=True)
class Example:
    """One encoded utterance.

    units (U,): CTC targets; empty when not transcribed.
    words (L,), characters (L, C): for the text front-end.
    slots (L,): BIO tag of each word, or None when not labelled.
    targets (Y,): units of the translation; empty when not translated.
    labels: class of each classification task, IGNORE when not labelled.
    domain: number of the recording's domain, 0 when unknown; see mtl.domains.
    context (C,), context_characters (C, c): words of the turns before, as `words` are; None where no task asks.
    said: its phones and how they are said; None where that is not known, or nothing is to be spoken.
    """

    id: str
    units: np.ndarray
    words: np.ndarray
    characters: np.ndarray
    slots: np.ndarray | None
    targets: np.ndarray
    labels: Mapping[str, int]
    domain: int = 0
    context: np.ndarray | None = None
    context_characters: np.ndarray | None = None
    said: Said | None = None


@dataclass(frozen=True)
class Batch:
    """Several utterances of one input group.

    features (B, T, F) float, feature_lengths (B,): None in a text batch.
    words (B, L), characters (B, L, C), word_lengths (B,): 0 is padding.
    units (B, U), unit_lengths (B,): CTC targets; length 0 means not transcribed.
    slots (B, L): tags, IGNORE on padding and on rows without slots.
    targets (B, Y), target_lengths (B,): units of the translation; length 0 means not translated.
    labels: task -> (B,), IGNORE where not labelled.
    domains (B,): 0 where unknown; see mtl.domains.
    context (B, C), context_characters (B, C, c), context_lengths (B,): words of the turns before; None where no row
        has any.
    spoken: phones and how they are said; None where no row has any.
    waves (B, N) int16, wave_lengths (B,): the recordings that the features are of, from the same first sample on,
        length 0 where it is not there; hertz (B, T): their pitch, 0 where unvoiced; None where they were not asked for.
    """

    ids: tuple[str, ...]
    features: Tensor | None
    feature_lengths: Tensor | None
    words: Tensor
    characters: Tensor
    word_lengths: Tensor
    units: Tensor
    unit_lengths: Tensor
    slots: Tensor
    targets: Tensor
    target_lengths: Tensor
    labels: Mapping[str, Tensor]
    domains: Tensor
    context: Tensor | None = None
    context_characters: Tensor | None = None
    context_lengths: Tensor | None = None
    spoken: Spoken | None = None
    waves: Tensor | None = None
    wave_lengths: Tensor | None = None
    hertz: Tensor | None = None

    @property
    def group(self) -> str:
        return "text" if self.features is None else "audio"

    def __len__(self) -> int:
        return len(self.ids)

    def mask(self, task: str) -> Tensor:
        """(B,) bool: the rows that are labelled for a task."""
        if task == "transcript":
            audio = torch.full_like(self.unit_lengths, self.features is not None, dtype=torch.bool)
            return audio & (self.unit_lengths > 0)
        if task == "slots":
            return (self.slots != IGNORE).any(dim=1)
        if task == "translation":
            return self.target_lengths > 0
        return self.labels[task] != IGNORE

    def remembering(self, other: Batch, rows: Tensor) -> Batch:
        """This batch with the turns before those rows (B,) of another one: its rows are the same utterances."""
        if other.context is None or other.context_characters is None or other.context_lengths is None:
            return replace(self, context=None, context_characters=None, context_lengths=None)
        return replace(
            self,
            context=other.context[rows],
            context_characters=other.context_characters[rows],
            context_lengths=other.context_lengths[rows],
        )

    def rows(self, chosen: Tensor) -> Batch:
        """Those rows (N,) alone, padded as they are."""
        picked: dict[str, Any] = {
            field.name: value[chosen]
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(
            self,
            **picked,
            ids=tuple(self.ids[row] for row in chosen.tolist()),
            labels={task: label[chosen] for task, label in self.labels.items()},
            spoken=None if self.spoken is None else self.spoken.select(chosen),
        )

    def to(self, device: torch.device | str) -> Batch:
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        labels = {task: label.to(device, non_blocking=True) for task, label in self.labels.items()}
        return replace(self, **moved, labels=labels, spoken=None if self.spoken is None else self.spoken.to(device))


def collate(
    examples: Sequence[Example],
    features: Sequence[np.ndarray] | None = None,
    waves: Sequence[np.ndarray] | None = None,
    hertz: Sequence[np.ndarray] | None = None,
) -> Batch:
    """Pads examples into a batch; of each, features (T, F) of any float type; waves (N,) int16 and hertz (T,), empty
    where they are not known."""
    if not examples:
        raise ValueError("collate was given no examples; a batch holds at least one")
    if features is not None and len(features) != len(examples):
        raise ValueError(f"collate was given {len(examples)} examples and {len(features)} feature arrays")
    slots = [
        example.slots if example.slots is not None else np.full(len(example.words), IGNORE) for example in examples
    ]
    frames, frame_lengths = _pad_frames(features) if features is not None else (None, None)
    words, word_lengths = _pad([example.words for example in examples], 0)
    units, unit_lengths = _pad([example.units for example in examples], 0)
    context, context_characters, context_lengths = _context(examples)
    targets, target_lengths = _pad([example.targets for example in examples], 0)
    sounds, wave_lengths = _pad_frames([wave[:, None] for wave in waves]) if waves is not None else (None, None)
    return Batch(
        ids=tuple(example.id for example in examples),
        features=frames,
        feature_lengths=frame_lengths,
        words=words,
        characters=_pad([example.characters for example in examples], 0)[0],
        word_lengths=word_lengths,
        units=units,
        unit_lengths=unit_lengths,
        slots=_pad(slots, IGNORE)[0],
        targets=targets,
        target_lengths=target_lengths,
        labels={
            task: torch.tensor([example.labels[task] for example in examples], dtype=torch.int64)
            for task in examples[0].labels
        },
        domains=torch.tensor([example.domain for example in examples], dtype=torch.int64),
        context=context,
        context_characters=context_characters,
        context_lengths=context_lengths,
        spoken=pad([example.said for example in examples]) if features is not None else None,
        waves=sounds[..., 0] if sounds is not None else None,
        wave_lengths=wave_lengths,
        hertz=_pad_frames([line[:, None] for line in hertz])[0][..., 0].float() if hertz is not None else None,
    )


def chunks(lengths: Mapping[int, int], most: int) -> list[list[int]]:
    """Inputs of similar length together, the longest first, padded to at most `most` in each chunk; a longer one alone.

    lengths: of each input by its number.
    """
    found: list[list[int]] = []
    for i in sorted(lengths, key=lambda i: -lengths[i]):
        if found and lengths[found[-1][0]] * (len(found[-1]) + 1) <= most:
            found[-1].append(i)
        else:
            found.append([i])
    return found


def _context(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor] | tuple[None, None, None]:
    pairs = [(example.context, example.context_characters) for example in examples]
    found = [(words, letters) for words, letters in pairs if words is not None and letters is not None]
    if len(found) < len(examples) or not any(len(words) for words, _ in found):
        return None, None, None
    words, lengths = _pad([words for words, _ in found], 0)
    return words, _pad([letters for _, letters in found], 0)[0], lengths


def _pad(arrays: Sequence[np.ndarray], value: int) -> tuple[Tensor, Tensor]:
    lengths = [len(array) for array in arrays]
    padded = np.full((len(arrays), max(1, *lengths), *arrays[0].shape[1:]), value, dtype=np.int64)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded), torch.tensor(lengths, dtype=torch.int64)


def _pad_frames(arrays: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    # Only the tail of each row is zeroed: the rest is written once, by the copy itself.
    lengths = [len(array) for array in arrays]
    padded = np.empty((len(arrays), max(lengths), arrays[0].shape[1]), dtype=arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
        row[len(array) :] = 0
    return torch.from_numpy(padded), torch.tensor(lengths, dtype=torch.int64)
