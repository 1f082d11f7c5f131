"""Log-mel frames from phones with their duration, pitch and energy (FastSpeech 2, Ren et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from mtl.answers import Measurement
from mtl.audio.features import FeatureSpec
from mtl.heads.base import Head, States, drawn, speech_code_of
from mtl.inputs.batch import Batch
from mtl.inputs.tts import SpeechCode, TTSBatch
from mtl.layers.encoder import padding_mask
from mtl.metrics.distortion import distortions
from mtl.spec import TaskSpec
from mtl.tts.acoustic_model import ConvStack, contour, harmonics, stretch
from mtl.tts.adversary import Adversary, PatchDiscriminator

if TYPE_CHECKING:
    from mtl.config.model import ModelConfig
    from mtl.inputs.codec import Codec


BLOCKS, EXPANSION = 4, 3
SEGMENT, CHANNELS = 64, 8  # frames of a recording that the discriminator reads, and channels of its layers


class Mel(Head):
    """Phones with their pitch and energy, stretched to frames, through a stack of blocks; scales are the code's.

    Inputs of each frame are its pitch, a straight line between the middles of phones, and the positions of its
    harmonics among the bins, which a vocoder without a pitch model depends on. The loss is the absolute error, a mean
    over bins, summed over frames; with a weight `adversarial`, the loss of a patch discriminator on a segment of each
    recording is added. In training, durations, pitch and energy are the true ones; at inference the head Prosody
    predicts them.
    """

    def __init__(
        self, spec: TaskSpec, width: int, bins: int, code: SpeechCode, dropout: float, adversarial: float = 0.0
    ) -> None:
        super().__init__(spec)
        # Not among the weights: they travel in the code.
        self.register_buffer("mean", torch.tensor([scale.mean for scale in code.mel]), persistent=False)
        self.register_buffer("deviation", torch.tensor([scale.deviation for scale in code.mel]), persistent=False)
        self.register_buffer("hertz", torch.tensor(code.hertz), persistent=False)
        self.pitch = code.pitch
        self.harmonics = nn.Linear(bins, width, bias=False)
        self.prosody = nn.Linear(2, width)
        self.place = nn.Linear(2, width)
        self.stack = ConvStack(BLOCKS, width, EXPANSION, dropout)
        self.output = nn.Linear(width, bins)
        self.adversarial = adversarial
        self.adversary = Adversary([PatchDiscriminator(CHANNELS)], [_picture]) if adversarial else None

    mean: Tensor
    deviation: Tensor
    hertz: Tensor

    @classmethod
    def build(cls, spec: TaskSpec, config: ModelConfig, codec: Codec) -> Self:
        return cls(spec, config.width, config.bins, speech_code_of(spec, codec), config.dropout, config.adversarial)

    def forward(self, states: States, spoken: TTSBatch) -> tuple[Tensor, Tensor]:
        """(B, T, F) with zero mean and unit deviation, lengths (B,), from durations, pitch and energy of `spoken`."""
        assert states.style is not None, "states of phones have it"
        x = states.hidden + self.prosody(torch.stack((spoken.pitch, spoken.energy), dim=-1))
        frames, lengths, position = stretch(x, spoken.durations)
        # Behind a convolution all frames of a long phone would be alike: each has its relative position in the phone.
        frames = frames + self.place(torch.stack((position, 1 - position), dim=-1).to(frames.dtype))
        height = contour(spoken.pitch, spoken.durations, spoken.lengths, frames.shape[1])
        comb = harmonics(height * self.pitch.deviation + self.pitch.mean, self.hertz)
        frames = frames + self.harmonics(comb.to(frames.dtype))
        return self.output(self.stack(frames, lengths, states.style)).float(), lengths

    def count(self, batch: Batch, lengths: Tensor) -> Tensor:
        if batch.spoken is None or batch.feature_lengths is None:
            return lengths.new_zeros(())
        return (batch.feature_lengths * (batch.spoken.lengths > 0)).sum()

    def loss(self, states: States, batch: Batch) -> tuple[Tensor, Tensor]:
        spoken = batch.spoken
        assert spoken is not None, "counted only where there are phones"
        predicted, lengths = self(states, spoken)
        return self.error(predicted, lengths, batch)

    def error(self, predicted: Tensor, lengths: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss and its count of predicted frames (B, T, F), lengths (B,)."""
        assert batch.features is not None, "phones are of recordings"
        target = (batch.features.float() - self.mean) / self.deviation
        frames = min(predicted.shape[1], target.shape[1])
        predicted, target = predicted[:, :frames], target[:, :frames]
        total = ((predicted - target).abs().mean(dim=-1) * padding_mask(lengths, frames)).sum()
        if self.adversary is not None:
            total = total + self.adversarial * self._judged(self.adversary, predicted, target, lengths)
        return total, self.count(batch, lengths)

    def _judged(self, adversary: Adversary, predicted: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Adversarial loss of a random segment of each row that is long enough, times the row's frames."""
        rows = (lengths >= SEGMENT).nonzero()[:, 0]
        if not len(rows):
            return predicted.new_zeros(())
        frames = drawn(lengths[rows], SEGMENT)
        judged = adversary(predicted[rows[:, None], frames], target[rows[:, None], frames])
        return (judged * lengths[rows]).sum()

    def raised(self, predicted: Tensor) -> Tensor:
        """Log-mels (B, T, F) from frames with zero mean and unit deviation."""
        return predicted * self.deviation + self.mean

    @torch.no_grad()
    def speak(self, states: States, spoken: TTSBatch) -> list[Tensor]:
        """Log-mels (T, F), one a row."""
        predicted, lengths = self(states, spoken)
        return [mel[:length] for mel, length in zip(self.raised(predicted), lengths.tolist(), strict=True)]

    def measure(self, states: States, batch: Batch, codec: Codec, spec: FeatureSpec) -> list[Measurement | None]:
        """mcd: of recordings that are synthesised with their own durations, pitch and energy."""
        assert batch.spoken is not None, "rows with phones alone are measured"
        assert batch.features is not None, "and they are recordings"
        measurements: list[Measurement | None] = []
        for mel, features in zip(self.speak(states, batch.spoken), batch.features, strict=True):
            distances = distortions(mel.cpu().numpy(), features[: len(mel)].float().cpu().numpy())
            measurements.append(Measurement({"mcd": (float(distances.sum()), len(mel))}))
        return measurements


def _picture(mels: Tensor) -> Tensor:
    """(B, T, F) -> (B, 1, T, F)."""
    return mels[:, None]
