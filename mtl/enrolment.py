"""Fits a user's adapter to a few utterances, and says what it is worth on those that it did not hear.

    folds = cross_fit(model, fresh, utterances, spec, fitting)     # an adapter a fold, each deaf to its own fold
    steps = folds.best_steps()                               # where the loss on what was not heard is lowest
    fit(model, personal, utterances, spec, fitting, steps)         # the adapter that ships hears all of them

First the user's recordings are measured (`usual_of`). Then the base is frozen and in eval mode, and only the adapter
learns, by CTC on augmented features. How many steps are taken is chosen by the loss on utterances outside of the
training; a fold that is to be scored is left out of all of this, so that its score owes nothing to its own transcripts.
None may be the best number of steps: then the adapter is what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from mtl.audio import FeatureSpec
from mtl.augment import spec_augment, speed
from mtl.batch import Batch, Example, collate
from mtl.frontends import bin_statistics
from mtl.model import SpeechModel
from mtl.personal import Personal

TASK = "transcript"
Report = Callable[[int], None]


@dataclass(frozen=True)
class Utterance:
    """A transcribed recording: features (T, F) and what the codec makes of its row."""

    features: np.ndarray
    example: Example


@dataclass(frozen=True)
class Fitting:
    """How an adapter learns. look: steps between two looks at the loss on what is held back."""

    steps: int = 40
    look: int = 8
    batch: int = 5
    learning_rate: float = 1e-3  # at 3e-3 the loss on what is held back rises from the first steps on
    clip_norm: float = 1.0
    folds: int = 5
    speed: tuple[float, float] = (0.9, 1.1)
    time_masks: int = 1
    freq_masks: int = 1
    freq_mask_share: float = 0.15  # widest mask, of the bins
    seed: int = 0

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of steps at which the loss is looked at, 0 among them."""
        return tuple(range(0, self.steps + 1, self.look))


@dataclass
class Fold:
    """One adapter and the utterances that it did not hear. losses (looks,): their summed loss; units: its divisor."""

    held_back: tuple[int, ...]
    losses: list[float] = field(default_factory=list)
    units: float = 0.0
    states: list[dict[str, Tensor]] = field(default_factory=list)


@dataclass(frozen=True)
class Folds:
    """Every utterance is held back by exactly one fold."""

    fitting: Fitting
    folds: tuple[Fold, ...]

    def best_steps(self, without: int | None = None) -> int:
        """Steps with the lowest loss on held-back utterances, over all folds, or all but one."""
        return self.fitting.looks[self._best(without)]

    def state(self, fold: int) -> dict[str, Tensor]:
        """The adapter to score a fold's utterances with: stopped where the other folds say."""
        return self.folds[fold].states[self._best(fold)]

    def curve(self) -> list[float]:
        """Held-back loss per unit at each look."""
        total = np.sum([fold.losses for fold in self.folds], axis=0) / sum(fold.units for fold in self.folds)
        return [float(loss) for loss in total]

    def _best(self, without: int | None) -> int:
        others = [fold.losses for number, fold in enumerate(self.folds) if number != without]
        return int(np.argmin(np.sum(others, axis=0)))


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
) -> Folds:
    """An adapter for each fold, from the others; `fresh` makes an untrained one for them. Two utterances or more."""
    done = []
    for held_back in split(len(utterances), fitting.folds, fitting.seed):
        heard = [utterance for number, utterance in enumerate(utterances) if number not in held_back]
        fold = Fold(held_back)
        fit(
            model,
            fresh(heard),
            heard,
            spec,
            fitting,
            watched=[utterances[n] for n in held_back],
            fold=fold,
            report=report,
        )
        done.append(fold)
    return Folds(fitting, tuple(done))


def fit(
    model: SpeechModel,
    personal: Personal,
    heard: Sequence[Utterance],
    spec: FeatureSpec,
    fitting: Fitting,
    steps: int | None = None,
    watched: Sequence[Utterance] = (),
    fold: Fold | None = None,
    report: Report | None = None,
) -> Personal:
    """Trains the adapter in place; `fold` is told losses and states at each look, from before the first step on."""
    generator = np.random.default_rng(fitting.seed)
    personal.to(model.device)
    parameters = list(personal.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=fitting.learning_rate, weight_decay=0.0)
    wanted = fitting.steps if steps is None else steps
    with frozen(model), personal.on(model):
        for step in range(wanted + 1):
            if fold is not None and step % fitting.look == 0:
                _look(model, personal, watched, fold)
            if step == wanted:
                break
            batch = _drawn(heard, spec, fitting, generator).to(model.device)
            loss, count = model.losses(batch, (TASK,))[TASK]
            optimiser.zero_grad()
            (loss / count.clamp(min=1)).backward()
            nn.utils.clip_grad_norm_(parameters, fitting.clip_norm)
            optimiser.step()
            if report:
                report(1)
    return personal


def usual_of(utterances: Sequence[Utterance]) -> Tensor:
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


def _look(model: SpeechModel, personal: Personal, watched: Sequence[Utterance], fold: Fold) -> None:
    with torch.no_grad():
        batch = _batch([u.example for u in watched], [u.features for u in watched])
        loss, count = model.losses(batch.to(model.device), (TASK,))[TASK]
    fold.losses.append(float(loss))
    fold.units = float(count)
    fold.states.append({name: tensor.detach().clone() for name, tensor in personal.state_dict().items()})


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
