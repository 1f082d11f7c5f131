"""Activations of a trained model's layers, and linear probes on them.

    x = inspect(model, batch).pooled()[Layer(SHARED, "block 2")]       # (B, D), the mean state of each row
    probe(x[train], y[train], x[test], y[test], classes).accuracy      # percent

A linear probe (Alain and Bengio 2016) is a multinomial logistic regression on frozen states. It shows what the states
encode linearly. It is compared with always predicting the most frequent class and, after Hewitt and Liang (2019), with
the same probe trained on shuffled labels, which shows how much it overfits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mtl.heads import States
from mtl.inputs.batch import Batch
from mtl.layers.encoder import padding_mask
from mtl.models.joint import SpeechModel
from mtl.sharing.base import SHARED, Layer, pool

FRONT_END, HEAD_INPUT = "front-end", "given"  # labels of the first layer, and of the inputs of the heads
PENALTY = 1e-3  # of the squared weights beside the mean cross entropy, on standardised states
ITERATIONS = 50  # of L-BFGS, which converges on states of a trained model
SHUFFLES = 3
TEST_SHARE = 1 / 3
FEWEST = 3  # labelled items of a class, at least


@dataclass(frozen=True)
class Activations:
    """Activations of one batch: states (B, T, D) by layer, in order of depth; lengths (B,); head_inputs by task."""

    states: dict[Layer, Tensor]
    lengths: Tensor
    head_inputs: dict[str, States]

    def pooled(self) -> dict[Layer, Tensor]:
        """(B, D) each: the mean over the frames of each row."""
        mask = padding_mask(self.lengths, next(iter(self.states.values())).shape[1])
        return {layer: pool(state, mask).cpu() for layer, state in self.states.items()}

    def at(self, rows: Sequence[int], frames: Sequence[int]) -> dict[Layer, Tensor]:
        """(N, D) each: the states of N frames."""
        return {layer: state[list(rows), list(frames)].float().cpu() for layer, state in self.states.items()}


@torch.no_grad()
def inspect(model: SpeechModel, batch: Batch) -> Activations:
    """The states of every layer, for all tasks of this batch's input group. The model must be in eval mode.

    The inputs of the tasks' heads come last, unless they are the states of a layer.
    """
    tasks = tuple(task for task in model.config.tasks if batch.group in model.task(task).groups)
    entry = Layer(SHARED, FRONT_END)
    modules = {entry: model.front_end(batch.group), **model.trunk.layers()}
    seen: dict[Layer, Any] = {}

    def record(layer: Layer, module: object, inputs: object, output: Any) -> None:
        seen.setdefault(layer, output)  # a later pass encodes the previous turns of a dialogue

    hooks = [module.register_forward_hook(partial(record, layer)) for layer, module in modules.items()]
    try:
        head_inputs = model.encode(batch.to(model.device), tasks)
    finally:
        for hook in hooks:
            hook.remove()
    seen[entry], lengths, *_ = seen[entry]
    states: dict[Layer, Tensor] = {layer: seen[layer] for layer in modules if layer in seen}
    for task, state in head_inputs.items():
        if not any(state.hidden is other for other in states.values()):
            states[Layer(task, HEAD_INPUT)] = state.hidden
    return Activations(states, lengths, head_inputs)


def diagnostics(model: SpeechModel, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """The sharing mode's `diagnostics` over these batches, for all tasks of their input groups."""
    model.eval()  # resets the recorded activations
    for batch in batches:
        inspect(model, batch)
    return model.trunk.diagnostics()


@dataclass(frozen=True)
class Probe:
    """Accuracy on the test items, percent: of a probe trained on the labels, and the mean accuracy of SHUFFLES probes
    trained on shuffled labels."""

    accuracy: float
    shuffled: float


def probe(x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor, classes: int, seed: int = 0) -> Probe:
    """x (N, D), y (N,) for training; test_x (M, D), test_y (M,) for testing; labels 0 to classes - 1."""
    center, scale = x.mean(dim=0), x.std(dim=0).clamp(min=1e-6)
    x, test_x = (x - center) / scale, (test_x - center) / scale
    generator = torch.Generator().manual_seed(seed)

    def accuracy(labels: Tensor) -> float:
        weight, bias = fit_line(x, labels, classes)
        return 100 * float(((test_x @ weight + bias).argmax(dim=1) == test_y).float().mean())

    # The mean of several, since a single shuffle may correlate with a strong direction of the states.
    shuffled = [accuracy(y[torch.randperm(len(y), generator=generator)]) for _ in range(SHUFFLES)]
    return Probe(accuracy(y), sum(shuffled) / SHUFFLES)


def fit_line(x: Tensor, y: Tensor, classes: int, penalty: float = PENALTY) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression: weight (D, C) and bias (C,) that minimise mean cross entropy + penalty |W|^2."""
    weight = torch.zeros(x.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, tolerance_grad=1e-4, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        total = F.cross_entropy(x @ weight + bias, y) + penalty * weight.square().sum()
        total.backward()
        return total

    solver.step(loss)
    return weight.detach(), bias.detach()


def chance(y: Tensor, test_y: Tensor) -> float:
    """Accuracy on the test items, percent, of always predicting the most frequent label of `y`."""
    return 100 * float((test_y == y.mode().values).float().mean())


@dataclass(frozen=True)
class Split:
    """Positions of the training and test items."""

    train: list[int]
    test: list[int]

    def of_known(self, labels: Sequence[Hashable]) -> Split:
        """Without the items of classes that occur only in training or only in the test."""
        both = {labels[i] for i in self.train} & {labels[i] for i in self.test}
        return Split([i for i in self.train if labels[i] in both], [i for i in self.test if labels[i] in both])


def split_by_group(groups: Sequence[str], share: float = TEST_SHARE) -> Split | None:
    """Assigns whole groups (speakers), about `share` of the items to the test; None for a single group.

    The largest group is for training; the others, in the order of their hash, are for the test up to that share.
    """
    members = _positions(groups)
    if len(members) < 2:
        return None
    largest = max(members, key=lambda group: (len(members[group]), group))
    first, *others = sorted(members.keys() - {largest}, key=_hash)
    train, test, size = [largest], [first], len(members[first])
    for group in others:
        if size + len(members[group]) <= share * len(groups):
            test.append(group)
            size += len(members[group])
        else:
            train.append(group)
    return Split(*(sorted(i for group in side for i in members[group]) for side in (train, test)))


def split_within_class(labels: Sequence[str], ids: Sequence[str], share: float = TEST_SHARE) -> Split:
    """Splits the items of each class by the hash of their id; classes of fewer than FEWEST items are left out."""
    train: list[int] = []
    test: list[int] = []
    for positions in _positions(labels).values():
        if len(positions) >= FEWEST:
            order = sorted(positions, key=lambda i: _hash(ids[i]))
            size = max(1, round(share * len(order)))
            test += order[:size]
            train += order[size:]
    return Split(sorted(train), sorted(test))


def _positions(labels: Sequence[str]) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = {}
    for position, label in enumerate(labels):
        positions.setdefault(label, []).append(position)
    return positions


def numbered(labels: Sequence[str]) -> tuple[Tensor, list[str]]:
    """(N,) class of each label, and the classes' names in order."""
    names = sorted(set(labels))
    index = {name: position for position, name in enumerate(names)}
    return torch.tensor([index[label] for label in labels], dtype=torch.long), names


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
