"""Recognition: characters or pieces, by CTC."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from mtl.answers import Transcription
from mtl.config.model import ModelConfig
from mtl.decoding.greedy import Path
from mtl.heads.base import Reading
from mtl.heads.ctc import CTC
from mtl.inputs.batch import Batch
from mtl.inputs.codec import Codec
from mtl.spec import TaskSpec


class Transcript(CTC):
    @classmethod
    def build(cls, spec: TaskSpec, config: ModelConfig, codec: Codec) -> Self:
        return cls(spec, config.width, len(codec.units))

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return transcript_of(batch, self.name)

    def answer(self, output: Path, reading: Reading) -> Transcription:
        return Transcription(" ".join(reading.tokens), reading.words, output.alternatives)


def transcript_of(batch: Batch, name: str) -> tuple[Tensor, Tensor]:
    """Units (B, U) of the transcripts of recordings, and their lengths (B,), 0 for sentences of text."""
    target = batch.targets[name]
    assert target.lengths is not None, "a transcript is a sequence of units"
    return target.values, target.lengths if batch.group == "audio" else torch.zeros_like(target.lengths)
