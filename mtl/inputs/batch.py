"""What a model is fed: `Example` is one utterance as numbers, `Batch` several of them, padded.

A batch holds rows of one input group: "audio" (features, with the transcript's words where known) or
"text" (words alone). What a task is trained on lies under its name in `targets`; see mtl/inputs/targets.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtl.inputs import tts
from mtl.inputs.targets import ENCODINGS, IGNORE, Target, pad
from mtl.inputs.tts import TTSBatch, TTSExample
from mtl.spec import task

__all__ = ["IGNORE", "Batch", "Example", "Target", "chunks", "collate"]


@dataclass(frozen=True)
class Example:
    """One encoded utterance.

    words (L,), characters (L, C): for the text front-end.
    targets: what each task is trained on, as its encoding has it (mtl/inputs/targets.py).
    domain: number of the recording's domain, 0 when unknown; see mtl.models.domains.
    context (C,), context_characters (C, c): words of the turns before, as `words` are; None where no task asks.
    said: its phones and how they are said; None where that is not known, or nothing is to be spoken.
    """

    id: str
    words: np.ndarray
    characters: np.ndarray
    targets: Mapping[str, np.ndarray]
    domain: int = 0
    context: np.ndarray | None = None
    context_characters: np.ndarray | None = None
    said: TTSExample | None = None


@dataclass(frozen=True)
class Batch:
    """Several utterances of one input group.

    features (B, T, F) float, feature_lengths (B,): None in a text batch.
    words (B, L), characters (B, L, C), word_lengths (B,): 0 is padding.
    targets: by task; those of a task that reads another input group are there too.
    domains (B,): 0 where unknown; see mtl.models.domains.
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
    targets: Mapping[str, Target]
    domains: Tensor
    context: Tensor | None = None
    context_characters: Tensor | None = None
    context_lengths: Tensor | None = None
    spoken: TTSBatch | None = None
    waves: Tensor | None = None
    wave_lengths: Tensor | None = None
    hertz: Tensor | None = None

    @property
    def group(self) -> str:
        return "text" if self.features is None else "audio"

    def __len__(self) -> int:
        return len(self.ids)

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
            targets={task: target.select(chosen) for task, target in self.targets.items()},
            spoken=None if self.spoken is None else self.spoken.select(chosen),
        )

    def to(self, device: torch.device | str) -> Batch:
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        targets = {task: target.to(device) for task, target in self.targets.items()}
        return replace(self, **moved, targets=targets, spoken=None if self.spoken is None else self.spoken.to(device))


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
    frames, frame_lengths = _pad_frames(features) if features is not None else (None, None)
    words, word_lengths = pad([example.words for example in examples], 0)
    context, context_characters, context_lengths = _context(examples)
    sounds, wave_lengths = _pad_frames([wave[:, None] for wave in waves]) if waves is not None else (None, None)
    return Batch(
        ids=tuple(example.id for example in examples),
        features=frames,
        feature_lengths=frame_lengths,
        words=words,
        characters=pad([example.characters for example in examples], 0)[0],
        word_lengths=word_lengths,
        targets={
            name: ENCODINGS[task(name).answer].collate([example.targets[name] for example in examples])
            for name in examples[0].targets
        },
        domains=torch.tensor([example.domain for example in examples], dtype=torch.int64),
        context=context,
        context_characters=context_characters,
        context_lengths=context_lengths,
        spoken=tts.pad([example.said for example in examples]) if features is not None else None,
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
    words, lengths = pad([words for words, _ in found], 0)
    return words, pad([letters for _, letters in found], 0)[0], lengths


def _pad_frames(arrays: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    # Only the tail of each row is zeroed: the rest is written once, by the copy itself.
    lengths = [len(array) for array in arrays]
    padded = np.empty((len(arrays), max(lengths), arrays[0].shape[1]), dtype=arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
        row[len(array) :] = 0
    return torch.from_numpy(padded), torch.tensor(lengths, dtype=torch.int64)
