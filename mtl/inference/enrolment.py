"""Trains a user's adapter on a few utterances, and evaluates it by cross-fitting.

    folds = cross_fit(model, fresh, utterances, spec, fitting)     # one adapter per fold, trained on the other folds
    fit(model, fresh(utterances), utterances, spec, fitting)       # the adapter that ships, trained on all utterances

The base is frozen and in eval mode; the adapter is trained with CTC on augmented features for a fixed number of steps.
Early stopping on held-back utterances was tried: with ten utterances that loss is too noisy and cost some of the gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mtl.audio.augmentation import spec_augment, speed
from mtl.config.features import FeatureSpec
from mtl.inference.adaptation import Personal
from mtl.inputs.audio import bin_statistics
from mtl.inputs.batch import Batch, Example, collate
from mtl.models.consistency import frozen_weights
from mtl.models.joint import SpeechModel
from mtl.spec import AUDIO

TASK = "transcript"
Report = Callable[[int], None]


@dataclass(frozen=True)
class Utterance:
    """A transcribed recording: features (T, F) and its encoded row."""

    features: np.ndarray
    example: Example


@dataclass(frozen=True)
class Fitting:
    """Training settings of an adapter. folds: of the cross-fitting."""

    steps: int = 16  # from 8 to 32 the gain was about the same
    batch: int = 5
    learning_rate: float = 1e-3  # at 3e-3 the held-back loss rises from the first steps on
    clip_norm: float = 1.0
    folds: int = 5
    speed: tuple[float, float] = (0.9, 1.1)
    time_masks: int = 1
    freq_masks: int = 1
    freq_mask_share: float = 0.15  # widest mask, of the bins
    seed: int = 0


@dataclass(frozen=True)
class Fold:
    """An adapter and the utterances that it was not trained on.

    before, after: their summed loss with the base and with the adapter. units: target units, the divisor of the losses.
    """

    held_back: tuple[int, ...]
    personal: Personal
    before: float
    after: float
    units: float


def split(count: int, folds: int, seed: int) -> list[tuple[int, ...]]:
    """Numbers 0..count-1 in random folds whose sizes differ by one at most."""
    order = np.random.default_rng(seed).permutation(count)
    return [tuple(sorted(order[number::folds].tolist())) for number in range(min(folds, count))]


def cross_fit(
    model: SpeechModel,
    fresh: Callable[[Sequence[Utterance]], Personal],
    utterances: Sequence[Utterance],
    spec: FeatureSpec,
    fitting: Fitting,
    report: Report | None = None,
) -> list[Fold]:
    """An adapter for each fold, trained on the others; each of two or more utterances is held back once.

    fresh: makes an untrained adapter for utterances.
    """
    results = []
    for held_back in split(len(utterances), fitting.folds, fitting.seed):
        training = [utterance for number, utterance in enumerate(utterances) if number not in held_back]
        personal = fit(model, fresh(training), training, spec, fitting, report)
        others = [utterances[number] for number in held_back]
        before, units = _loss(model, others)
        with personal.on(model):
            after, _ = _loss(model, others)
        results.append(Fold(held_back, personal, before, after, units))
    return results


def fit(
    model: SpeechModel,
    personal: Personal,
    utterances: Sequence[Utterance],
    spec: FeatureSpec,
    fitting: Fitting,
    report: Report | None = None,
) -> Personal:
    """Trains the adapter in place, and returns it in eval mode."""
    generator = np.random.default_rng(fitting.seed)
    personal.to(model.device)
    parameters = list(personal.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=fitting.learning_rate, weight_decay=0.0)
    with frozen(model), personal.on(model):
        for _ in range(fitting.steps):
            batch = _drawn(utterances, spec, fitting, generator).to(model.device)
            loss, count = model.losses(batch, (TASK,))[TASK]
            optimiser.zero_grad()
            (loss / count.clamp(min=1)).backward()
            nn.utils.clip_grad_norm_(parameters, fitting.clip_norm)
            optimiser.step()
            if report:
                report(1)
    return personal.eval()


def statistics_of(utterances: Sequence[Utterance]) -> Tensor:
    """Mean and deviation of each mel bin over the frames of all utterances, (2, F)."""
    frames = torch.from_numpy(np.concatenate([utterance.features for utterance in utterances]).astype(np.float32))
    return torch.cat(bin_statistics(frames[None], torch.tensor([len(frames)])))


@contextmanager
def frozen(model: SpeechModel) -> Iterator[None]:
    """Freezes the model and sets it to eval mode within the block."""
    training = model.training
    model.eval()
    try:
        with frozen_weights(model):
            yield
    finally:
        model.train(training)


@torch.no_grad()
def _loss(model: SpeechModel, utterances: Sequence[Utterance]) -> tuple[float, float]:
    """Summed loss and its divisor, in eval mode."""
    with frozen(model):
        batch = _batch([u.example for u in utterances], [u.features for u in utterances])
        loss, count = model.losses(batch.to(model.device), (TASK,))[TASK]
    return float(loss), float(count)


def _drawn(rows: Sequence[Utterance], spec: FeatureSpec, fitting: Fitting, generator: np.random.Generator) -> Batch:
    """A random batch, augmented."""
    chosen = [rows[n] for n in generator.permutation(len(rows))[: fitting.batch]]
    factors = generator.uniform(*fitting.speed, size=len(chosen))
    features = [speed(one.features, float(factor), spec).numpy() for one, factor in zip(chosen, factors, strict=True)]
    batch = _batch([one.example for one in chosen], features)
    assert batch.features is not None, "a batch of recordings"
    spec_augment(
        batch.features,
        batch.inputs[AUDIO].lengths,
        generator,
        time_masks=fitting.time_masks,
        freq_masks=fitting.freq_masks,
        freq_mask_bins=round(fitting.freq_mask_share * spec.bins),
    )
    return batch


def _batch(examples: Sequence[Example], features: Sequence[np.ndarray]) -> Batch:
    return collate(list(examples), [np.asarray(array, dtype=np.float32) for array in features])
