"""Contract of a sharing mode, and arithmetic that several modes use.

    forward(x (B, T, D), lengths (B,), tasks) -> {task: (B, T, D)}   runs only the modules that the tasks need
    penalty() -> scalar                                              added to the loss once a step
    shared_parameters()                                              parameters whose gradients are balanced
    diagnostics() -> {name: small tensor}                            tensors for plots
    layers(), part(name)                                             names of modules and parameters in reports

The states of a row must not depend on its padding, and those of a task not on the other tasks that are computed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from mtl.layers.encoder import ConformerBlock, Encoder

SHARED = "shared"  # in place of a task's name, for states and parameters that all tasks share


class MakeEncoder(Protocol):
    """Creates an encoder of the model's shape, or with that many blocks."""

    def __call__(self, blocks: int | None = None) -> Encoder: ...


@dataclass(frozen=True)
class Layer:
    """A layer between front-end and heads. path: SHARED or the name of its task; label: for example "block 2"."""

    path: str
    label: str


class Trunk(nn.Module):
    """Base of every sharing mode; see the module's docstring for the contract."""

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}  # sums and weights, not in the state_dict

    def forward(self, x: Tensor, lengths: Tensor, tasks: Iterable[str]) -> dict[str, Tensor]:
        raise NotImplementedError

    def penalty(self) -> Tensor:
        return next(self.parameters()).new_zeros(())

    def shared_parameters(self) -> list[nn.Parameter]:
        """Parameters that several tasks train: by default those outside of modules named after a task."""
        return self._outside_of(self.tasks)

    def _outside_of(self, tasks: Iterable[str]) -> list[nn.Parameter]:
        own = set(tasks)
        return [p for name, p in self.named_parameters() if not own & set(name.split("."))]

    def part(self, name: str) -> str:
        """Part of the trunk that a parameter belongs to, for reports: "block 2", the same for encoders of tasks."""
        first = name.split(".")[0]
        block = re.search(r"\bblocks\.(\d+)\.", name) if first in ("shared", "stem", "encoders") else None
        return f"block {int(block[1]) + 1}" if block else first.replace("_", " ")

    def layers(self) -> dict[Layer, nn.Module]:
        """Modules that output states (B, T, D) once in a forward pass, in order of depth; by default every block."""
        return {
            Layer(next((step for step in name.split(".") if step in self.tasks), SHARED), self.part(f"{name}.")): module
            for name, module in self.named_modules()
            if isinstance(module, ConformerBlock)
        }

    def diagnostics(self) -> dict[str, Tensor]:
        """Small detached tensors on the CPU, for plots; tasks in the order of `self.tasks`.

        Values that depend on the input are means over the inputs since the last call of `eval()`: NaN for a task that
        was not computed, and absent without any input. In training nothing is recorded.
        """
        return {}

    def train(self, mode: bool = True) -> Trunk:
        self._seen.clear()
        return super().train(mode)

    def see(self, name: str, values: Tensor, exists: Tensor) -> None:
        """Adds values (N, C) with weights `exists` (N,) to the mean called `name`; does nothing in training."""
        if self.training:
            return
        weights = exists.detach().float()
        total, weight = (weights[:, None] * values.detach().float()).sum(dim=0), weights.sum()
        if name in self._seen:
            before, weight_before = self._seen[name]
            total, weight = total + before.to(total.device), weight + weight_before.to(weight.device)
        self._seen[name] = (total, weight)

    def see_ratio(self, name: str, part: Tensor, whole: Tensor, mask: Tensor) -> None:
        """Adds the ratio of the norms of states (B, T, D) to the mean called `name`; mask (B, T)."""
        if not self.training:
            ratio = part.detach().float().norm(dim=-1) / whole.detach().float().norm(dim=-1).clamp(min=1e-6)
            self.see(name, ratio.flatten()[:, None], mask.flatten())

    def means(self, key: str, names: Sequence[str], *shape: int) -> dict[str, Tensor]:
        """{key: means of these names as a tensor of that shape}, NaN for a missing name; {} if all are missing."""
        if not any(name in self._seen for name in names):
            return {}
        missing = torch.full((math.prod(shape) // len(names),), torch.nan)
        sums = (self._seen.get(name, (missing, missing)) for name in names)
        return {key: torch.stack([total.cpu() / weight.cpu() for total, weight in sums]).view(shape)}


def start_alike(encoders: Sequence[nn.Module]) -> None:
    """Copies the parameters of the first encoder to the others."""
    start = encoders[0].state_dict()
    for encoder in encoders[1:]:
        encoder.load_state_dict(start)


def pool(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the frames that exist, fp32: x (B, T, D), mask (B, T) -> (B, D); zero for a row without any."""
    total = x.float().masked_fill(~mask[..., None], 0.0).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1)


def mix(weights: Tensor, states: Sequence[Tensor]) -> Tensor:
    """Weighted sums of N states (B, T, D): weights (B, K, N), or (K, N) for all rows -> (K, B, T, D), fp32.

    Without autocast, which would round the states to bf16.
    """
    with torch.autocast(states[0].device.type, enabled=False):
        if weights.ndim == 2:
            mixed = weights.float() @ torch.stack([state.float().flatten() for state in states])
            return mixed.unflatten(1, states[0].shape)
        mixed = weights.float() @ torch.stack([state.float().flatten(1) for state in states], dim=1)  # (B, K, T x D)
        return mixed.transpose(0, 1).unflatten(2, states[0].shape[1:])
