"""Where each phone of a recording lies, learned from recordings and their phones alone.

    aligner = fit_aligner(utterances, phones=60, bins=80)       # [(phones (P,), log-mel (T, F))], a minute or two
    durations = aligner.durations(phones, logmel)               # (P,) frames, each at least one, their sum T

Each phone, knowing its neighbours, foretells the frames that it is heard as; the likelihood of all monotonic alignments
together is raised (the forward sum of hidden Markov models, as in Shih et al. 2021 and Badlani et al. 2022), and the
likeliest is read off by dynamic programming. Those papers score a frame by a softmax over the utterance's phones; of
an hour of speech that learned to give nearly all frames to one phone. Frames that have to be foretold cannot be.
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
# Training begins near the diagonal with every frame of little weight, and ends where frames decide (deterministic
# annealing, Ueda and Nakano 1998): begun as it ends, it stays at the first alignment it comes across.
SPREAD = (0.08, 0.3)  # standard deviation of the prior around the diagonal, as a share of the utterance
SHARP = (2.0, 20.0)  # independent measurements that a frame counts as: its bins say much the same
ANNEALED = 0.6  # share of the steps after which it is as in the end
Report = Callable[[int, int], None]  # steps done, steps to do


@dataclass(frozen=True)
class Fitting:
    """How an aligner learns. frames: of a batch, padding counted; steps: after which it is done."""

    steps: int = 800
    frames: int = 3000
    learning_rate: float = 2e-3
    width: int = 96
    seed: int = 0


class Aligner(nn.Module):
    """What each phone sounds like between its neighbours, as a normalised log-mel frame."""

    def __init__(self, phones: int, bins: int, width: int) -> None:
        super().__init__()
        self.phone = nn.Embedding(phones + 2, width)
        self.context = nn.Conv1d(width, width, 3, padding=1)
        self.sound = nn.Linear(width, bins)
        self.sharp, self.spread = SHARP[1], SPREAD[1]

    def forward(self, phones: Tensor, lengths: Tensor, mels: Tensor, frames: Tensor) -> Tensor:
        """phones (B, P), lengths (B,), log-mels (B, T, F), frames (B,) -> scores (B, T, P): how well each frame is
        foretold by each phone, NEVER where there is no such phone."""
        there = padding_mask(lengths, phones.shape[1])
        x = self.phone(phones) * there[..., None]
        x = x + torch.relu(self.context(x.transpose(1, 2))).transpose(1, 2)
        off = torch.cdist(normalise_bins(mels, frames), self.sound(x)).square() / mels.shape[-1]  # (B, T, P)
        near = prior(lengths, frames, off.shape, self.spread)
        return (-0.5 * self.sharp * off + near).masked_fill(~there[:, None], NEVER)

    @torch.no_grad()
    def durations(self, phones: np.ndarray, logmel: np.ndarray) -> np.ndarray:
        """(P,) frames of each phone; T must be at least P.

        Raises:
            ValueError: fewer frames than phones.
        """
        if len(logmel) < len(phones):
            raise ValueError(f"{len(logmel)} frames for {len(phones)} phones; each needs one at least")
        one = torch.from_numpy(np.asarray(phones, dtype=np.int64))[None]
        mel = torch.from_numpy(np.array(logmel, dtype=np.float32))[None]
        found = self(one, torch.tensor([len(phones)]), mel, torch.tensor([len(logmel)]))
        return likeliest(found[0].numpy())


def prior(lengths: Tensor, frames: Tensor, shape: torch.Size, spread: float) -> Tensor:
    """(B, T, P) log-weights that fall with the distance from the straight line through an utterance."""
    place = torch.arange(shape[1], device=frames.device)[None, :, None] / frames[:, None, None].clamp(min=1)
    phone = (torch.arange(shape[2], device=frames.device)[None, None] + 0.5) / lengths[:, None, None].clamp(min=1)
    return -0.5 * ((place - phone) / spread).square()


def forward_sum(scores: Tensor, lengths: Tensor, frames: Tensor) -> Tensor:
    """(B,) log of the sum over all monotonic alignments of exp of their scores' sum.

    scores (B, T, P): of each phone for each frame; an alignment begins with the first phone, ends with the last, and
    goes on to the next or stays.
    """
    first = torch.arange(scores.shape[2], device=scores.device) == 0
    reached = torch.where(first, scores[:, 0], NEVER)  # (B, P)
    for t in range(1, scores.shape[1]):
        before = nn.functional.pad(reached[:, :-1], (1, 0), value=NEVER)
        reached = torch.where((t < frames)[:, None], torch.logaddexp(reached, before) + scores[:, t], reached)
    return reached.gather(1, lengths[:, None] - 1)[:, 0]


def likeliest(scores: np.ndarray) -> np.ndarray:
    """(P,) frames of each phone on the best monotonic path through (T, P), every phone once, in order."""
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
    """An aligner of these utterances; those with fewer frames than phones are passed over.

    phones: how many there are, beside padding and unknown.

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
    """Every utterance once, those of similar length together, in an order drawn anew."""
    order = np.argsort(np.asarray(lengths) * generator.uniform(0.9, 1.1, len(lengths)))
    found: list[list[int]] = []
    for i in order.tolist():
        if found and lengths[i] * (len(found[-1]) + 1) <= frames:
            found[-1].append(i)
        else:
            found.append([i])
    return [found[i] for i in generator.permutation(len(found))]


def _padded(utterances: Sequence[Utterance]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lengths = torch.tensor([len(phones) for phones, _ in utterances])
    frames = torch.tensor([len(mel) for _, mel in utterances])
    texts = torch.zeros(len(utterances), int(lengths.max()), dtype=torch.int64)
    mels = torch.zeros(len(utterances), int(frames.max()), utterances[0][1].shape[1])
    for row, (phones, mel) in enumerate(utterances):
        texts[row, : len(phones)] = torch.from_numpy(np.asarray(phones, dtype=np.int64))
        mels[row, : len(mel)] = torch.from_numpy(np.array(mel, dtype=np.float32))
    return texts, lengths, mels, frames
