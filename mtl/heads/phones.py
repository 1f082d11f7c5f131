"""Phones of a recording, by CTC."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from mtl import answers
from mtl.config.model import ModelConfig
from mtl.decoding.greedy import Path
from mtl.heads.base import Reading, speech_code_of
from mtl.heads.ctc import CTC
from mtl.inputs.batch import Batch
from mtl.inputs.codec import Codec
from mtl.spec import TaskSpec


class Phones(CTC):
    """Units are the numbers of the speech code, whose padding, 0, is the blank."""

    @classmethod
    def build(cls, spec: TaskSpec, config: ModelConfig, codec: Codec) -> Self:
        return cls(spec, config.width, len(speech_code_of(spec, codec).phones) + 2)

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if batch.spoken is None:
            none = torch.zeros(len(batch), dtype=torch.long, device=batch.word_lengths.device)
            return none[:, None], none
        return batch.spoken.phones, batch.spoken.lengths

    def answer(self, output: Path, reading: Reading) -> answers.Phones:
        assert reading.codec.speech is not None, "the head was built with its phones"
        return answers.Phones(reading.codec.speech.named(output.units))
