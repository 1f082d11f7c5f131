"""What a trained model shows of itself: the states of its layers, and how much of a label a line can read from them.

    x = look(model, batch).pooled()[Layer(SHARED, "block 2")]       # (B, D), the mean state of each row
    found = probe(x[train], y[train], x[test], y[test], classes)
    found.accuracy, found.shuffled                     # percent

A linear probe (Alain and Bengio 2016) is a multinomial logistic regression on frozen states. What it reads is there,
and lies in a straight line; what it cannot read may still be there. Beside it stand the chance of always naming the
commonest class, and a control after Hewitt and Liang (2019): the same probe, trained on shuffled labels, shows what
the probe makes of so many dimensions and so few rows by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
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
from mtl.sharing import SHARED, Layer
from mtl.sharing.base import pool

FRONT_END, GIVEN = "front-end", "given"  # labels of the first layer, and of what each task is given at the end
PENALTY = 1e-3  # of the squared weights beside the mean cross entropy, on standardised states
ITERATIONS = 50  # of L-BFGS: on states of a trained model it has converged, on shuffled labels it need not
SHUFFLES = 3
TEST_SHARE = 1 / 3
FEWEST = 3  # labelled items of a class, to have one to test on and more to learn from


@dataclass(frozen=True)
class View:
    """One batch's states by layer, in order of depth: states (B, T, D), and lengths (B,); what each task is given."""

    states: dict[Layer, Tensor]
    lengths: Tensor
    given: dict[str, States]

    def pooled(self) -> dict[Layer, Tensor]:
        """(B, D) each: the mean over the frames that exist."""
        mask = padding_mask(self.lengths, next(iter(self.states.values())).shape[1])
        return {layer: pool(state, mask).cpu() for layer, state in self.states.items()}

    def at(self, rows: Sequence[int], frames: Sequence[int]) -> dict[Layer, Tensor]:
        """(N, D) each: the states of N frames."""
        return {layer: state[list(rows), list(frames)].float().cpu() for layer, state in self.states.items()}


@torch.no_grad()
def look(model: SpeechModel, batch: Batch) -> View:
    """The states of every layer, for all tasks that listen to this batch's input group. The model is in eval mode.

    Last come those that the tasks' heads are given, where they are not a layer's already.
    """
    tasks = tuple(task for task in model.config.tasks if batch.group in model.task(task).groups)
    entry = Layer(SHARED, FRONT_END)
    modules = {entry: model.front_end(batch.group), **model.trunk.layers()}
    seen: dict[Layer, Any] = {}

    def keep(layer: Layer, module: object, inputs: object, output: Any) -> None:
        seen.setdefault(layer, output)  # a later pass is of the turns before, which a dialogue task remembers

    hooks = [module.register_forward_hook(partial(keep, layer)) for layer, module in modules.items()]
    try:
        given = model.encode(batch.to(model.device), tasks)
    finally:
        for hook in hooks:
            hook.remove()
    seen[entry], lengths, *_ = seen[entry]
    states: dict[Layer, Tensor] = {layer: seen[layer] for layer in modules if layer in seen}
    for task, state in given.items():
        if not any(state.hidden is other for other in states.values()):
            states[Layer(task, GIVEN)] = state.hidden
    return View(states, lengths, given)


def pictures(model: SpeechModel, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """The sharing mode's `picture` over these batches, with every task asked for that listens to them."""
    model.eval()  # forgets what was seen before
    for batch in batches:
        look(model, batch)
    return model.trunk.picture()


@dataclass(frozen=True)
class Probe:
    """Percent of the test items named rightly: by a probe trained on the labels, and, in the mean over SHUFFLES, by
    probes trained on the labels shuffled."""

    accuracy: float
    shuffled: float


def probe(x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor, classes: int, seed: int = 0) -> Probe:
    """x (N, D), y (N,) to learn from; test_x (M, D), test_y (M,) to be asked about; labels 0 to classes - 1."""
    center, scale = x.mean(dim=0), x.std(dim=0).clamp(min=1e-6)
    x, test_x = (x - center) / scale, (test_x - center) / scale
    generator = torch.Generator().manual_seed(seed)

    def accuracy(labels: Tensor) -> float:
        weight, bias = fit_line(x, labels, classes)
        return 100 * float(((test_x @ weight + bias).argmax(dim=1) == test_y).float().mean())

    # One shuffle alone may happen to lean towards a strong direction of the states, or against it.
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
    """Percent of the test items that the commonest label of `y` names rightly."""
    return 100 * float((test_y == y.mode().values).float().mean())


@dataclass(frozen=True)
class Split:
    """Positions of the items to learn from and of those to be asked about."""

    train: list[int]
    test: list[int]

    def of_known(self, labels: Sequence[Hashable]) -> Split:
        """Without the items of classes that are on one side alone: nothing could be learned, or asked, about them."""
        both = {labels[i] for i in self.train} & {labels[i] for i in self.test}
        return Split([i for i in self.train if labels[i] in both], [i for i in self.test if labels[i] in both])


def split_by_group(groups: Sequence[str], share: float = TEST_SHARE) -> Split | None:
    """Whole groups (speakers) to one side each, about `share` of the items to test; None where there is one group.

    The largest group is learned from; of the others, in the order of their hash, those are asked about that fit.
    """
    members: dict[str, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(group, []).append(position)
    if len(members) < 2:
        return None
    largest = max(members, key=lambda group: (len(members[group]), group))
    first, *others = sorted(members.keys() - {largest}, key=_place)
    train, test, asked = [largest], [first], len(members[first])
    for group in others:
        if asked + len(members[group]) <= share * len(groups):
            test.append(group)
            asked += len(members[group])
        else:
            train.append(group)
    return Split(*(sorted(i for group in side for i in members[group]) for side in (train, test)))


def split_within_class(labels: Sequence[str], ids: Sequence[str], share: float = TEST_SHARE) -> Split:
    """Items of each class on both sides, by the hash of their id; classes of fewer than FEWEST items on neither."""
    members: dict[str, list[int]] = {}
    for position, label in enumerate(labels):
        members.setdefault(label, []).append(position)
    train: list[int] = []
    test: list[int] = []
    for positions in members.values():
        if len(positions) >= FEWEST:
            order = sorted(positions, key=lambda i: _place(ids[i]))
            asked = max(1, round(share * len(order)))
            test += order[:asked]
            train += order[asked:]
    return Split(sorted(train), sorted(test))


def numbered(labels: Sequence[str]) -> tuple[Tensor, list[str]]:
    """(N,) class of each label, and the classes' names in order."""
    names = sorted(set(labels))
    places: Mapping[str, int] = {name: place for place, name in enumerate(names)}
    return torch.tensor([places[label] for label in labels], dtype=torch.long), names


def _place(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
