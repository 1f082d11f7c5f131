"""Model inputs: `Example` is one encoded utterance, `Batch` several of them, padded.

    batch = collate([codec.encode(row) for row in rows])         # of sentences
    batch = collate([codec.encode(row) for row in rows], mels)   # of recordings, with their log-mels
    batch.group, batch.inputs[batch.group], batch.targets["intent"]

All rows of a batch belong to one input group (mtl/groups.py); its inputs also hold those of groups beside it, and the
words of recordings. Training targets lie in `targets` under the task's name; see mtl/inputs/targets.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtl.groups import group, row_groups
from mtl.inputs.group import Inputs, input_group
from mtl.inputs.targets import ENCODINGS, IGNORE, Target
from mtl.inputs.tts import TTSBatch
from mtl.spec import AUDIO, PHONES, SOUND, TEXT, task

__all__ = ["IGNORE", "Batch", "Example", "Target", "chunks", "collate"]


@dataclass(frozen=True)
class Example:
    """One encoded utterance.

    inputs: arrays by input group, as `InputGroup.encode` returns them; without features and waveforms.
    targets: by task, as its encoding returns them (mtl/inputs/targets.py).
    domain: of the recording, 0 if unknown; see mtl.models.domains.
    context: words of the previous turns, arrays of the group "text"; None if no task reads them.
    """

    id: str
    inputs: Mapping[str, Any]
    targets: Mapping[str, np.ndarray]
    domain: int = 0
    context: Any = None


@dataclass(frozen=True)
class Batch:
    """Several utterances of one input group.

    inputs: of `group`, of groups beside it if some row has any, and of "text" in every batch.
    targets: by task, also of tasks that do not read this group.
    domains (B,): 0 where unknown; see mtl.models.domains.
    context: words of the previous turns; None if no row has any.
    """

    ids: tuple[str, ...]
    group: str
    inputs: Mapping[str, Inputs]
    targets: Mapping[str, Target]
    domains: Tensor
    context: Inputs | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def with_inputs(self, name: str, **tensors: Tensor) -> Batch:
        """This batch with other tensors in the inputs of one group."""
        return replace(self, inputs={**self.inputs, name: replace(self.inputs[name], **tensors)})

    def with_context_of(self, other: Batch, rows: Tensor) -> Batch:
        """This batch with the previous turns of rows (B,) of another batch, which are the same utterances."""
        return replace(self, context=None if other.context is None else other.context.select(rows))

    def rows(self, chosen: Tensor) -> Batch:
        """Selects rows (N,); the padding stays."""
        return Batch(
            ids=tuple(self.ids[row] for row in chosen.tolist()),
            group=self.group,
            inputs={name: inputs.select(chosen) for name, inputs in self.inputs.items()},
            targets={task: target.select(chosen) for task, target in self.targets.items()},
            domains=self.domains[chosen],
            context=None if self.context is None else self.context.select(chosen),
        )

    def to(self, device: torch.device | str) -> Batch:
        return replace(
            self,
            inputs={name: inputs.to(device) for name, inputs in self.inputs.items()},
            targets={task: target.to(device) for task, target in self.targets.items()},
            domains=self.domains.to(device, non_blocking=True),
            context=None if self.context is None else self.context.to(device),
        )

    # Tensors of the built-in groups, for the heads that read them; None if the batch has no such inputs.

    @property
    def features(self) -> Tensor | None:
        """(B, T, F) log-mel."""
        return self._tensor(AUDIO, "features")

    @property
    def feature_lengths(self) -> Tensor | None:
        return self._tensor(AUDIO, "lengths")

    @property
    def spoken(self) -> TTSBatch | None:
        """Phones of the recordings."""
        inputs = self.inputs.get(PHONES)
        return inputs if isinstance(inputs, TTSBatch) else None

    @property
    def waves(self) -> Tensor | None:
        """(B, N) int16."""
        return self._tensor(SOUND, "waves")

    @property
    def wave_lengths(self) -> Tensor | None:
        return self._tensor(SOUND, "lengths")

    @property
    def hertz(self) -> Tensor | None:
        """(B, T) pitch."""
        return self._tensor(SOUND, "hertz")

    @property
    def words(self) -> Tensor:
        """(B, L)."""
        words: Tensor = getattr(self.inputs[TEXT], "words")  # noqa: B009 (TextInputs: text.py imports this file)
        return words

    @property
    def word_lengths(self) -> Tensor:
        return self.inputs[TEXT].lengths

    def _tensor(self, name: str, field: str) -> Tensor | None:
        return getattr(self.inputs[name], field) if name in self.inputs else None


def collate(
    examples: Sequence[Example],
    features: Sequence[np.ndarray] | None = None,
    waves: Sequence[np.ndarray] | None = None,
    hertz: Sequence[np.ndarray] | None = None,
) -> Batch:
    """Pads examples of one group into a batch.

    features: log-mels (T, F) of recordings, of any float type. waves (N,) int16, hertz (T,): empty where unknown.

    Raises:
        ValueError: no examples, as many features as examples expected, or examples of different groups.
    """
    if not examples:
        raise ValueError("collate was given no examples; a batch holds at least one")
    if features is not None and len(features) != len(examples):
        raise ValueError(f"collate was given {len(examples)} examples and {len(features)} feature arrays")
    arrays: dict[str, Sequence[Any]] = {} if features is None else {AUDIO: features}
    if waves is not None and hertz is not None:
        arrays[SOUND] = list(zip(waves, hertz, strict=True))
    name = _group_of(examples[0]) if features is None else AUDIO
    return Batch(
        ids=tuple(example.id for example in examples),
        group=name,
        inputs=_collated(name, examples, arrays),
        targets={
            one: ENCODINGS[task(one).answer].collate([example.targets[one] for example in examples])
            for one in examples[0].targets
        },
        domains=torch.tensor([example.domain for example in examples], dtype=torch.int64),
        context=_context([example.context for example in examples]),
    )


def _group_of(example: Example) -> str:
    """Group of an example without features."""
    return next((one.name for one in row_groups() if one.name in example.inputs), TEXT)


def _collated(name: str, examples: Sequence[Example], features: Mapping[str, Sequence[Any]]) -> dict[str, Inputs]:
    """Inputs of the named group, of groups beside it, and words; features: arrays that examples do not hold."""
    arrays = dict(features)
    for other in dict.fromkeys(other for example in examples for other in example.inputs):
        if other in (name, TEXT) or group(other).beside == name:
            arrays[other] = [example.inputs.get(other) for example in examples]
    if any(array is None for array in arrays[name]):
        raise ValueError(f"collate was given examples of several input groups; all of {name!r} were expected")
    collated = {other: input_group(other).collate(rows) for other, rows in arrays.items()}
    return {other: inputs for other, inputs in collated.items() if inputs is not None}


def _context(contexts: Sequence[Any]) -> Inputs | None:
    if any(one is None for one in contexts) or not any(len(one.words) for one in contexts):
        return None
    return input_group(TEXT).collate(contexts)


def chunks(lengths: Mapping[int, int], most: int) -> list[list[int]]:
    """Chunks of inputs of similar length, the longest first, of at most `most` padded items; longer inputs alone.

    lengths: by the number of the input.
    """
    members: list[list[int]] = []
    for i in sorted(lengths, key=lambda i: -lengths[i]):
        if members and lengths[members[-1][0]] * (len(members[-1]) + 1) <= most:
            members[-1].append(i)
        else:
            members.append([i])
    return members
