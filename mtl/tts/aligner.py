"""Forced alignment of phones, learned from recordings and their phones alone.

    aligner = fit_aligner(utterances, phones=60, bins=80)       # [(phones (P,), log-mel (T, F))], a minute or two
    durations = aligner.durations(phones, logmel)               # (P,) frames, each at least one, their sum T

The model predicts the log-mel frames of each phone from the phone and its neighbours. Training maximises the total
likelihood of all monotonic alignments (the forward sum of hidden Markov models, as in Shih et al. 2021 and Badlani et
al. 2022); the most likely alignment is found by dynamic programming. Those papers score a frame by a softmax over the
phones of the utterance; on an hour of speech that collapsed, with nearly all frames on one phone. Predicting the frames
does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mtl.inputs.audio import normalise_bins
from mtl.layers.encoder import padding_mask

Utterance = tuple[np.ndarray, np.ndarray]  # phones (P,) by number, log-mel (T, F)
NEVER = -1e9
# Deterministic annealing (Ueda and Nakano 1998): training begins near the diagonal with a low weight of the frames, and
# ends with a high one. With the final values from the start it stays at the first alignment it finds.
SPREAD = (0.08, 0.3)  # standard deviation of the prior around the diagonal, as a share of the utterance
SHARP = (2.0, 20.0)  # independent measurements that a frame counts as: its bins are strongly correlated
ANNEALED = 0.6  # share of the steps until the final values
Report = Callable[[int, int], None]  # steps done, steps in all


@dataclass(frozen=True)
class Fitting:
    """Training settings. steps: in all. frames: of a batch, padding counted."""

    steps: int = 800
    frames: int = 3000
    learning_rate: float = 2e-3
    width: int = 96
    seed: int = 0


class Aligner(nn.Module):
    """Predicts the normalised log-mel frame of each phone from the phone and its neighbours."""

    def __init__(self, phones: int, bins: int, width: int) -> None:
        super().__init__()
        self.phone = nn.Embedding(phones + 2, width)
        self.context = nn.Conv1d(width, width, 3, padding=1)
        self.sound = nn.Linear(width, bins)
        self.sharp, self.spread = SHARP[1], SPREAD[1]

    def forward(self, phones: Tensor, lengths: Tensor, mels: Tensor, frames: Tensor) -> Tensor:
        """Log-likelihoods (B, T, P) of each frame for each phone, NEVER in the padding of phones.

        phones (B, P), lengths (B,), log-mels (B, T, F), frames (B,).
        """
        exists = padding_mask(lengths, phones.shape[1])
        x = self.phone(phones) * exists[..., None]
        x = x + torch.relu(self.context(x.transpose(1, 2))).transpose(1, 2)
        error = torch.cdist(normalise_bins(mels, frames), self.sound(x)).square() / mels.shape[-1]  # (B, T, P)
        log_prior = prior(lengths, frames, error.shape, self.spread)
        return (-0.5 * self.sharp * error + log_prior).masked_fill(~exists[:, None], NEVER)

    @torch.no_grad()
    def durations(self, phones: np.ndarray, logmel: np.ndarray) -> np.ndarray:
        """Frames (P,) of each phone.

        Raises:
            ValueError: fewer frames than phones.
        """
        if len(logmel) < len(phones):
            raise ValueError(f"{len(logmel)} frames for {len(phones)} phones; each needs one at least")
        return likeliest(self(*_padded([(phones, logmel)]))[0].numpy())


def prior(lengths: Tensor, frames: Tensor, shape: torch.Size, spread: float) -> Tensor:
    """Gaussian log-prior (B, T, P) around the diagonal of each utterance."""
    position = torch.arange(shape[1], device=frames.device)[None, :, None] / frames[:, None, None].clamp(min=1)
    phone = (torch.arange(shape[2], device=frames.device)[None, None] + 0.5) / lengths[:, None, None].clamp(min=1)
    return -0.5 * ((position - phone) / spread).square()


def forward_sum(scores: Tensor, lengths: Tensor, frames: Tensor) -> Tensor:
    """Log-likelihood (B,) of all monotonic alignments together.

    scores (B, T, P): log-likelihoods. An alignment begins with the first phone, ends with the last, and at each frame
    stays or goes on to the next.
    """
    first = torch.arange(scores.shape[2], device=scores.device) == 0
    reached = torch.where(first, scores[:, 0], NEVER)  # (B, P)
    for t in range(1, scores.shape[1]):
        before = nn.functional.pad(reached[:, :-1], (1, 0), value=NEVER)
        reached = torch.where((t < frames)[:, None], torch.logaddexp(reached, before) + scores[:, t], reached)
    return reached.gather(1, lengths[:, None] - 1)[:, 0]


def likeliest(scores: np.ndarray) -> np.ndarray:
    """Frames (P,) of each phone on the best monotonic path through scores (T, P)."""
    frames, phones = scores.shape
    best = np.full(phones, -np.inf)
    best[0] = scores[0, 0]
    moved = np.zeros((frames, phones), dtype=bool)
    for t in range(1, frames):
        stay, move = best, np.concatenate([[-np.inf], best[:-1]])
        moved[t] = move > stay
        best = np.maximum(stay, move) + scores[t]
    durations = np.zeros(phones, dtype=np.int64)
    phone = phones - 1
    for t in range(frames - 1, -1, -1):
        durations[phone] += 1
        phone -= int(moved[t, phone])
    return durations


def fit_aligner(
    utterances: Sequence[Utterance], phones: int, bins: int, fitting: Fitting = Fitting(), report: Report | None = None
) -> Aligner:
    """Trains an aligner; utterances with fewer frames than phones are skipped.

    phones: number of phones, without padding and unknown.

    Raises:
        ValueError: no utterance is long enough for its phones.
    """
    chosen = [one for one in utterances if len(one[1]) >= len(one[0]) > 0]
    if not chosen:
        raise ValueError(f"none of {len(utterances)} recordings has as many frames as phones; is the text theirs?")
    generator = np.random.default_rng(fitting.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fitting.seed)
        aligner = Aligner(phones, bins, fitting.width)
    optimiser = torch.optim.Adam(aligner.parameters(), lr=fitting.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, fitting.learning_rate, total_steps=fitting.steps)
    batches: list[list[int]] = []
    for step in range(fitting.steps):
        done = min(1.0, step / (ANNEALED * fitting.steps))
        aligner.sharp = SHARP[0] * (SHARP[1] / SHARP[0]) ** done
        aligner.spread = SPREAD[0] * (SPREAD[1] / SPREAD[0]) ** done
        if not batches:
            batches = _batches([len(mel) for _, mel in chosen], fitting.frames, generator)
        texts, lengths, mels, frames = _padded([chosen[i] for i in batches.pop()])
        loss = -(forward_sum(aligner(texts, lengths, mels, frames), lengths, frames) / frames).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(aligner.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if report is not None:
            report(step + 1, fitting.steps)
    aligner.sharp, aligner.spread = SHARP[1], SPREAD[1]
    return aligner.eval()


def _batches(lengths: Sequence[int], frames: int, generator: np.random.Generator) -> list[list[int]]:
    """Numbers of all utterances in batches of similar length, in random order."""
    order = np.argsort(np.asarray(lengths) * generator.uniform(0.9, 1.1, len(lengths)))
    batches: list[list[int]] = []
    for i in order.tolist():
        if batches and lengths[i] * (len(batches[-1]) + 1) <= frames:
            batches[-1].append(i)
        else:
            batches.append([i])
    return [batches[i] for i in generator.permutation(len(batches))]


def _padded(utterances: Sequence[Utterance]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Arguments of Aligner.forward."""
    lengths = torch.tensor([len(phones) for phones, _ in utterances])
    frames = torch.tensor([len(mel) for _, mel in utterances])
    texts = torch.zeros(len(utterances), int(lengths.max()), dtype=torch.int64)
    mels = torch.zeros(len(utterances), int(frames.max()), utterances[0][1].shape[1])
    for row, (phones, mel) in enumerate(utterances):
        texts[row, : len(phones)] = torch.from_numpy(np.asarray(phones, dtype=np.int64))
        mels[row, : len(mel)] = torch.from_numpy(np.array(mel, dtype=np.float32))
    return texts, lengths, mels, frames
