"""The contract of a sharing mode, and the arithmetic that several of them share.

    forward(x (B, T, D), lengths (B,), tasks) -> {task: (B, T, D)}   runs only what the named tasks need
    penalty() -> scalar                                              joins the loss once a step
    shared_parameters()                                              whose gradients are balanced between tasks
    diagnostics() -> {name: small tensor}                                what a person may look at
    layers(), part(name)                                             what a person calls its modules and parameters

A mode is length-safe (what a row is given does not depend on the padding behind it), and gives a task the same
states whichever other tasks are asked for beside it: so a task sees in use what it saw in training.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from mtl.layers.encoder import ConformerBlock, Encoder

SHARED = "shared"  # in place of a task's name: whose states and parameters are everybody's


class MakeEncoder(Protocol):
    """A fresh encoder of the model's shape, or of that many blocks."""

    def __call__(self, blocks: int | None = None) -> Encoder: ...


@dataclass(frozen=True)
class Layer:
    """A place between front-end and tasks. path: SHARED, or the task that it is for; label: "block 2"."""

    path: str
    label: str


class Trunk(nn.Module):
    """Base of every sharing mode; see the module's docstring for the contract."""

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}  # sums and weights, outside of the state_dict

    def forward(self, x: Tensor, lengths: Tensor, tasks: Iterable[str]) -> dict[str, Tensor]:
        raise NotImplementedError

    def penalty(self) -> Tensor:
        return next(self.parameters()).new_zeros(())

    def shared_parameters(self) -> list[nn.Parameter]:
        """Those that several tasks train: all but what lies in a module named after a task.

        A mode whose tasks reach into each other's modules gives its own answer.
        """
        return self._outside_of(self.tasks)

    def _outside_of(self, tasks: Iterable[str]) -> list[nn.Parameter]:
        own = set(tasks)
        return [p for name, p in self.named_parameters() if not own & set(name.split("."))]

    def part(self, name: str) -> str:
        """What a person calls the part that a parameter lies in: "block 2", the same over the tasks' encoders."""
        first = name.split(".")[0]
        block = re.search(r"\bblocks\.(\d+)\.", name) if first in ("shared", "stem", "encoders") else None
        return f"block {int(block[1]) + 1}" if block else first.replace("_", " ")

    def layers(self) -> dict[Layer, nn.Module]:
        """Modules that give states (B, T, D) once in a forward pass, by place, in order of depth.

        By default every block, named by its number and by the task in whose module it lies.
        """
        found: dict[Layer, nn.Module] = {}
        for name, module in self.named_modules():
            if isinstance(module, ConformerBlock):
                found[Layer(self._owner(name), self.part(f"{name}."))] = module
        return found

    def _owner(self, name: str) -> str:
        return next((step for step in name.split(".") if step in self.tasks), SHARED)

    def diagnostics(self) -> dict[str, Tensor]:
        """Small tensors on the CPU for a person to look at, detached. Tasks are in the order of `self.tasks`.

        What depends on the input is a mean over everything seen since `eval()` was last called; NaN where a task has
        not been asked for, and no entry at all where nothing has been seen. Training gathers nothing.
        """
        return {}

    def train(self, mode: bool = True) -> Trunk:
        self._seen.clear()
        return super().train(mode)

    def see(self, name: str, values: Tensor, exists: Tensor) -> None:
        """Adds values (N, C) to the mean called `name`; exists (N,): their weights. Does nothing in training."""
        if self.training:
            return
        weights = exists.detach().float()
        total, weight = (weights[:, None] * values.detach().float()).sum(dim=0), weights.sum()
        if name in self._seen:
            before, weight_before = self._seen[name]
            total, weight = total + before.to(total.device), weight + weight_before.to(weight.device)
        self._seen[name] = (total, weight)

    def seen(self, names: Sequence[str], size: int) -> Tensor | None:
        """(len(names), size): the means of these names, NaN where there is none; None where there is none at all."""
        if not any(name in self._seen for name in names):
            return None
        unseen = torch.full((size,), torch.nan)
        means = [total.cpu() / weight.cpu() for total, weight in (self._seen.get(n, (unseen, unseen)) for n in names)]
        return torch.stack(means)


def start_alike(encoders: Sequence[nn.Module]) -> None:
    """Gives every encoder the first one's parameters."""
    start = encoders[0].state_dict()
    for encoder in encoders[1:]:
        encoder.load_state_dict(start)


def pool(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the frames that exist, fp32: x (B, T, D), mask (B, T) -> (B, D); zero for a row without any."""
    total = x.float().masked_fill(~mask[..., None], 0.0).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1)


def mix(weights: Tensor, states: Sequence[Tensor]) -> Tensor:
    """Weighted sums of N states (B, T, D): weights (B, K, N), or (K, N) for all rows -> (K, B, T, D), fp32.

    One product instead of K x N passes over the states; outside of autocast, which would round the states to bf16.
    """
    with torch.autocast(states[0].device.type, enabled=False):
        if weights.ndim == 2:
            mixed = weights.float() @ torch.stack([state.float().flatten() for state in states])
            return mixed.unflatten(1, states[0].shape)
        mixed = weights.float() @ torch.stack([state.float().flatten(1) for state in states], dim=1)  # (B, K, T x D)
        return mixed.transpose(0, 1).unflatten(2, states[0].shape[1:])
