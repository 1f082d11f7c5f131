"""Slot filling: a BIO tag for each word of a sentence, or for each recognised word.

In audio the state of a word is the mean of the trunk's states over its frames. These come from the forced alignment of
the transcript in training (for a share of the recordings from the best path: mtl.models.asr_hypotheses), and from the
best path at inference.
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
    """States of words with context, through a linear layer over the tags.

    The context is a bidirectional LSTM over the words or, if the text front-end has one (`read`), the maximum over the
    sentence. crf: the tags of a sentence are decoded jointly (mtl.layers.crf).
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
        return self.output(self.dropout(self._with_context(x, lengths)))

    def _with_context(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x (B, L, D) plus the output of the LSTM, or of a layer over x and the maximum over the words."""
        if self.gist is not None:
            exists = padding_mask(lengths.clamp(min=1), x.shape[1])[..., None]
            top = x.masked_fill(~exists, torch.finfo(x.dtype).min).amax(dim=1, keepdim=True).expand_as(x)
            return x + nn.functional.silu(self.gist(torch.cat((x, top), dim=-1)))
        assert self.sequence is not None, "a head has either layer"
        x = self.dropout(x)
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        tagged, _ = nn.utils.rnn.pad_packed_sequence(self.sequence(packed)[0], True, total_length=x.shape[1])
        return x + tagged

    def count(self, batch: Batch, lengths: Tensor) -> Tensor:
        return (self._labels(batch, lengths) != IGNORE).sum()

    def _labels(self, batch: Batch, lengths: Tensor) -> Tensor:
        """(B, L) tags; in audio only of rows whose words can be aligned."""
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
        return loss, self.count(batch, states.lengths)  # of true words, not of recognised ones

    @staticmethod
    def _chain_loss(crf: ChainCRF, logits: Tensor, labels: Tensor) -> Tensor:
        """Summed over rows with a label; words without a label are skipped."""
        known = labels != IGNORE
        front = torch.argsort((~known).int(), dim=1, stable=True)  # labelled words first
        labels = labels.gather(1, front).clamp(min=0)
        logits = logits.gather(1, front[..., None].expand_as(logits))
        rows = known.any(dim=1)
        losses = crf.negative_log_likelihood(logits, labels, known.sum(dim=1).clamp(min=1))
        return torch.where(rows, losses, 0.0).sum()

    @torch.no_grad()
    def decode(self, states: States, options: Decoding = PLAIN) -> list[tuple[list[int], list[float]]]:
        """Tags of the words of each row, and their probabilities."""
        lengths = states.lengths if states.words is None else (states.words.starts >= 0).sum(dim=1)
        if self.crf is None:
            labels, probability = confidences(self.logits(states))
        else:
            logits, known = self.logits(states), lengths.clamp(min=1)
            labels = self.crf.viterbi(logits, known)
            probability = self.crf.marginals(logits, known).gather(2, labels[..., None]).squeeze(2)
        return [
            (tags[:length], probs[:length])
            for tags, probs, length in zip(labels.tolist(), probability.tolist(), lengths.tolist(), strict=True)
        ]

    def answer(self, output: tuple[list[int], list[float]], reading: Reading) -> Tags:
        names = reading.codec.labels[self.name]
        tags = tuple(names[tag] for tag in output[0][: len(reading.tokens)])
        return Tags(tuple(bio_values(reading.tokens[: len(tags)], tags)), tags)


def pool_words(hidden: Tensor, words: Words) -> Tensor:
    """Mean state over the frames of each word: hidden (B, T, D), words (B, L) -> (B, L, D); zeros for padding."""
    frames = torch.arange(hidden.shape[1], device=hidden.device)
    inside = (frames >= words.starts[..., None]) & (frames < words.ends[..., None])  # (B, L, T)
    share = inside.to(hidden.dtype) / inside.sum(dim=-1, keepdim=True).clamp(min=1)
    return share @ hidden
