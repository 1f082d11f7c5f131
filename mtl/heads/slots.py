"""Slot filling: a BIO tag for each word of a sentence, or of the recognised words.

In text a word's state is the trunk's. In audio it is the mean of the trunk's states over the word's frames, which
the recogniser gives: its Viterbi path of the true transcript in training (or, for a share of the recordings, its best
path: mtl.models.asr_hypotheses), its best path in use.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from mtl.answers import Tags
from mtl.config.model import ModelConfig
from mtl.heads.base import PLAIN, Decoding, Head, Reading, States, Words, classes_of, confidences, cross_entropy
from mtl.heads.ctc import alignable
from mtl.heads.transcript import transcript_of
from mtl.inputs.batch import IGNORE, Batch
from mtl.inputs.codec import Codec
from mtl.layers.crf import ChainCRF
from mtl.layers.encoder import padding_mask
from mtl.spec import TaskSpec
from mtl.text.words import bio_values


class Slots(Head):
    """Each word's state with what stands around it, then a linear layer over the tags.

    The context is a bidirectional LSTM over the words; or, if the text front-end has one (`read`: model.lstm), the
    maximum over the sentence. crf: a sentence's tags are scored and chosen together (mtl.layers.crf).
    """

    def __init__(
        self, spec: TaskSpec, width: int, tags: int, dropout: float, crf: bool = False, read: bool = False
    ) -> None:
        super().__init__(spec)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.sequence = None if read else nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)
        self.gist = nn.Linear(2 * width, width) if read else None
        self.output = nn.Linear(width, tags)
        self.crf = ChainCRF(tags) if crf else None

    @classmethod
    def build(cls, spec: TaskSpec, config: ModelConfig, codec: Codec) -> Self:
        return cls(spec, config.width, classes_of(spec, codec), config.dropout, config.crf, config.lstm > 0)

    def logits(self, states: States) -> Tensor:
        """(B, L, tags)."""
        x, lengths = states.hidden, states.lengths
        if states.words is not None:
            x, lengths = pool_words(states.hidden, states.words), (states.words.starts >= 0).sum(dim=1)
        x = self.norm(x)
        around = self._neighbours if self.sequence is not None else self._whole
        return self.output(self.dropout(around(x, lengths)))

    def _neighbours(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x (B, L, D) and what the LSTM makes of it."""
        assert self.sequence is not None, "asked for where there is one"
        x = self.dropout(x)
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        tagged, _ = nn.utils.rnn.pad_packed_sequence(self.sequence(packed)[0], True, total_length=x.shape[1])
        return x + tagged

    def _whole(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x (B, L, D) and what it makes beside the maximum over its sentence's words."""
        assert self.gist is not None, "asked for where there is one"
        exists = padding_mask(lengths.clamp(min=1), x.shape[1])[..., None]
        top = x.masked_fill(~exists, torch.finfo(x.dtype).min).amax(dim=1, keepdim=True).expand_as(x)
        return x + nn.functional.silu(self.gist(torch.cat((x, top), dim=-1)))

    def count(self, batch: Batch, lengths: Tensor) -> Tensor:
        return (self._labels(batch, lengths) != IGNORE).sum()

    def _labels(self, batch: Batch, lengths: Tensor) -> Tensor:
        """(B, L) tags; in audio only of rows whose words can be placed."""
        target = batch.targets[self.name]
        if batch.group == "text":
            return target.values
        (recogniser,) = self.spec.needs
        return target.only(alignable(*transcript_of(batch, recogniser), lengths)).values

    def loss(self, states: States, batch: Batch) -> tuple[Tensor, Tensor]:
        tags = states.words.tags if states.words is not None else None
        labels = self._labels(batch, states.lengths) if tags is None else tags
        if self.crf is None:
            loss, _ = cross_entropy(self.logits(states), labels)
        else:
            loss = self._chain_loss(self.crf, self.logits(states), labels)
        return loss, self.count(batch, states.lengths)  # of true words, however many were recognised

    @staticmethod
    def _chain_loss(crf: ChainCRF, logits: Tensor, labels: Tensor) -> Tensor:
        """Summed over the rows with a label; a word without one is passed over."""
        known = labels != IGNORE
        front = torch.argsort((~known).int(), dim=1, stable=True)  # the labelled words first, in their order
        labels = labels.gather(1, front).clamp(min=0)
        logits = logits.gather(1, front[..., None].expand_as(logits))
        rows = known.any(dim=1)
        losses = crf.negative_log_likelihood(logits, labels, known.sum(dim=1).clamp(min=1))
        return torch.where(rows, losses, 0.0).sum()

    @torch.no_grad()
    def decode(self, states: States, options: Decoding = PLAIN) -> list[tuple[list[int], list[float]]]:
        """Tags and their probabilities of each row's words."""
        lengths = states.lengths if states.words is None else (states.words.starts >= 0).sum(dim=1)
        if self.crf is None:
            labels, probability = confidences(self.logits(states))
        else:
            logits, there = self.logits(states), lengths.clamp(min=1)
            labels = self.crf.viterbi(logits, there)
            probability = self.crf.marginals(logits, there).gather(2, labels[..., None]).squeeze(2)
        return [
            (tags[:length], probs[:length])
            for tags, probs, length in zip(labels.tolist(), probability.tolist(), lengths.tolist(), strict=True)
        ]

    def answer(self, output: tuple[list[int], list[float]], reading: Reading) -> Tags:
        names = reading.codec.labels[self.name]
        tags = tuple(names[tag] for tag in output[0][: len(reading.tokens)])
        return Tags(tuple(bio_values(reading.tokens[: len(tags)], tags)), tags)


def pool_words(hidden: Tensor, words: Words) -> Tensor:
    """Mean state over each word's frames: hidden (B, T, D), words (B, L) -> (B, L, D); zeros where no word is."""
    frames = torch.arange(hidden.shape[1], device=hidden.device)
    inside = (frames >= words.starts[..., None]) & (frames < words.ends[..., None])  # (B, L, T)
    share = inside.to(hidden.dtype) / inside.sum(dim=-1, keepdim=True).clamp(min=1)
    return share @ hidden
