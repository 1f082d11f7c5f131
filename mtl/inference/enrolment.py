"""Fits a user's adapter to a few utterances, and says what it is worth on those that it did not hear.

    folds = cross_fit(model, fresh, utterances, spec, fitting)     # an adapter a fold, each deaf to its own fold
    fit(model, fresh(utterances), utterances, spec, fitting)       # the adapter that ships hears all of them

First the user's recordings are measured (`statistics_of`). Then the base is frozen and in eval mode, and only
the adapter
learns, by CTC on augmented features, for a fixed number of steps: to choose it by the loss on what is held back of ten
utterances was as noisy as ten utterances are, and took some of the gain back.
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
from mtl.models.joint import SpeechModel

TASK = "transcript"
Report = Callable[[int], None]


@dataclass(frozen=True)
class Utterance:
    """A transcribed recording: features (T, F) and what the codec makes of its row."""

    features: np.ndarray
    example: Example


@dataclass(frozen=True)
class Fitting:
    """How an adapter learns. folds: parts that the utterances are dealt to, where it is judged."""

    steps: int = 16  # fixed before the study that measured them; from 8 to 32 the gain was about the same
    batch: int = 5
    learning_rate: float = 1e-3  # at 3e-3 the loss on what is held back rises from the first steps on
    clip_norm: float = 1.0
    folds: int = 5
    speed: tuple[float, float] = (0.9, 1.1)
    time_masks: int = 1
    freq_masks: int = 1
    freq_mask_share: float = 0.15  # widest mask, of the bins
    seed: int = 0


@dataclass(frozen=True)
class Fold:
    """An adapter and the utterances that it did not hear.

    before, after: their summed loss with the base and with the adapter; units: its divisor.
    """

    held_back: tuple[int, ...]
    personal: Personal
    before: float
    after: float
    units: float


def split(count: int, folds: int, seed: int) -> list[tuple[int, ...]]:
    """Numbers 0..count-1 dealt to folds that differ in size by one at most."""
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
    """An adapter for each fold, from the others; `fresh` makes an untrained one for them. Two utterances or more.

    Every utterance is held back by exactly one fold.
    """
    done = []
    for held_back in split(len(utterances), fitting.folds, fitting.seed):
        heard = [utterance for number, utterance in enumerate(utterances) if number not in held_back]
        personal = fit(model, fresh(heard), heard, spec, fitting, report)
        others = [utterances[number] for number in held_back]
        before, units = _loss(model, others)
        with personal.on(model):
            after, _ = _loss(model, others)
        done.append(Fold(held_back, personal, before, after, units))
    return done


def fit(
    model: SpeechModel,
    personal: Personal,
    heard: Sequence[Utterance],
    spec: FeatureSpec,
    fitting: Fitting,
    report: Report | None = None,
) -> Personal:
    """Trains the adapter in place, and gives it back in eval mode."""
    generator = np.random.default_rng(fitting.seed)
    personal.to(model.device)
    parameters = list(personal.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=fitting.learning_rate, weight_decay=0.0)
    with frozen(model), personal.on(model):
        for _ in range(fitting.steps):
            batch = _drawn(heard, spec, fitting, generator).to(model.device)
            loss, count = model.losses(batch, (TASK,))[TASK]
            optimiser.zero_grad()
            (loss / count.clamp(min=1)).backward()
            nn.utils.clip_grad_norm_(parameters, fitting.clip_norm)
            optimiser.step()
            if report:
                report(1)
    return personal.eval()


def statistics_of(utterances: Sequence[Utterance]) -> Tensor:
    """Mean and deviation of each mel bin over the frames of all of them, (2, F)."""
    frames = torch.from_numpy(np.concatenate([utterance.features for utterance in utterances]).astype(np.float32))
    return torch.cat(bin_statistics(frames[None], torch.tensor([len(frames)])))


@contextmanager
def frozen(model: SpeechModel) -> Iterator[None]:
    """Within it no parameter of the model takes a gradient, and it is in eval mode."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = model.training
    model.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        model.train(training)


@torch.no_grad()
def _loss(model: SpeechModel, utterances: Sequence[Utterance]) -> tuple[float, float]:
    """Summed loss and its divisor, with the model as it is in use."""
    with frozen(model):
        batch = _batch([u.example for u in utterances], [u.features for u in utterances])
        loss, count = model.losses(batch.to(model.device), (TASK,))[TASK]
    return float(loss), float(count)


def _drawn(heard: Sequence[Utterance], spec: FeatureSpec, fitting: Fitting, generator: np.random.Generator) -> Batch:
    """A batch of different utterances, augmented."""
    chosen = [heard[n] for n in generator.permutation(len(heard))[: fitting.batch]]
    factors = generator.uniform(*fitting.speed, size=len(chosen))
    features = [
        speed(utterance.features, float(factor), spec) for utterance, factor in zip(chosen, factors, strict=True)
    ]
    batch = _batch([utterance.example for utterance in chosen], [array.numpy() for array in features])
    frames, lengths = batch.features, batch.feature_lengths
    assert frames is not None, "made from features"
    assert lengths is not None, "likewise"
    spec_augment(
        frames,
        lengths,
        generator,
        time_masks=fitting.time_masks,
        freq_masks=fitting.freq_masks,
        freq_mask_bins=round(fitting.freq_mask_share * spec.bins),
    )
    return batch


def _batch(examples: Sequence[Example], features: Sequence[np.ndarray]) -> Batch:
    return collate(list(examples), [np.asarray(array, dtype=np.float32) for array in features])
