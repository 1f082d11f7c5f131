"""Experts behind gates: MMoE (multi-gate mixture of experts, Ma et al. 2018) and PLE (Tang et al. 2020).

An expert consists of Conformer blocks. All but the last `expert_blocks` of the encoder's blocks are shared below the
experts. The input of a gate is the mean of a row's states over its frames, so its weights are those of the whole
utterance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mtl.config.sharing import MMoESettings, PLESettings
from mtl.layers.encoder import Encoder, padding_mask
from mtl.sharing.base import SHARED, Layer, MakeEncoder, Trunk, mix, pool


class Gate(nn.Module):
    """Softmax over experts of a linear layer on the pooled states: (B, D) -> (B, N), fp32; uniform initially."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, experts)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        return torch.softmax(self.linear(pooled).float(), dim=-1)


def split_encoder(encoder: MakeEncoder, expert_blocks: int) -> tuple[Encoder, Encoder]:
    """The shared blocks and one expert, split from one encoder. Raises ValueError for an impossible split."""
    stem = encoder()
    depth = len(stem.blocks)
    if not 1 <= expert_blocks <= depth:
        raise ValueError(f"expert_blocks is {expert_blocks}, expected 1 to {depth}, the encoder's number of blocks")
    expert = encoder(0)
    expert.blocks = stem.blocks[depth - expert_blocks :]
    stem.blocks = stem.blocks[: depth - expert_blocks]
    return stem, expert


def _blocks(encoder: Encoder) -> dict[Layer, nn.Module]:
    return {Layer(SHARED, f"block {depth + 1}"): block for depth, block in enumerate(encoder.blocks)}


class MMoETrunk(Trunk):
    """f_k(x) = sum_e gate_k(s)[e] x expert_e(s), s = stem(x). Every expert runs once."""

    def __init__(
        self, tasks: Sequence[str], encoder: MakeEncoder, width: int, dropout: float, settings: MMoESettings
    ) -> None:
        super().__init__(tasks)
        self.stem, first = split_encoder(encoder, settings.expert_blocks)
        others = (encoder(settings.expert_blocks) for _ in range(settings.experts - 1))
        self.experts = nn.ModuleList([first, *others])
        self.gates = nn.ModuleDict({task: Gate(width, settings.experts) for task in tasks})

    def forward(self, x: Tensor, lengths: Tensor, tasks: Iterable[str]) -> dict[str, Tensor]:
        tasks = tuple(tasks)
        if not tasks:
            return {}
        x = self.stem(x, lengths)
        pooled = pool(x, padding_mask(lengths, x.shape[1]))
        weights = [self.gates[task](pooled) for task in tasks]
        for task, weight in zip(tasks, weights, strict=True):
            self.see(task, weight, lengths > 0)
        states = mix(torch.stack(weights, dim=1), [expert(x, lengths) for expert in self.experts])
        return dict(zip(tasks, states, strict=True))

    def layers(self) -> dict[Layer, nn.Module]:
        """The shared blocks, then the experts."""
        experts = {Layer(SHARED, f"expert {number + 1}"): expert for number, expert in enumerate(self.experts)}
        return {**_blocks(self.stem), **experts}

    def diagnostics(self) -> dict[str, Tensor]:
        """gates (K, experts): mean gate of each task."""
        return self.means("gates", self.tasks, len(self.tasks), len(self.experts))


class Extraction(nn.Module):
    """One level of PLE: an expert and a gate for each task, and shared experts.

    Below the last level a shared gate over all experts computes the next input of the shared experts.
    """

    def __init__(self, tasks: Sequence[str], encoder: MakeEncoder, width: int, shared: int, last: bool) -> None:
        super().__init__()
        self.task_experts = nn.ModuleDict({task: encoder(1) for task in tasks})
        self.shared_experts = nn.ModuleList(encoder(1) for _ in range(shared))
        self.gates = nn.ModuleDict({task: Gate(width, 1 + shared) for task in tasks})
        self.shared_gate = None if last else Gate(width, len(tasks) + shared)

    def forward(
        self, own: Mapping[str, Tensor], shared: Tensor, lengths: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
        """The tasks' states and the shared ones, (B, T, D) each -> the same, and the gates (B, N) by task or SHARED."""
        mask = padding_mask(lengths, shared.shape[1])
        common = [expert(shared, lengths) for expert in self.shared_experts]
        experts = {task: self.task_experts[task](state, lengths) for task, state in own.items()}
        gates = {task: self.gates[task](pool(state, mask)) for task, state in own.items()}
        states = {task: mix(gates[task][:, None], [experts[task], *common])[0] for task in own}
        if self.shared_gate is not None:
            gates[SHARED] = self.shared_gate(pool(shared, mask))
            shared = mix(gates[SHARED][:, None], [*experts.values(), *common])[0]
        return states, shared, gates


class PLETrunk(Trunk):
    """Levels of task experts and shared experts above the shared blocks, one block each.

    The last level runs the experts of the named tasks; lower levels run those of all tasks, because their shared gate
    mixes them.
    """

    def __init__(
        self, tasks: Sequence[str], encoder: MakeEncoder, width: int, dropout: float, settings: PLESettings
    ) -> None:
        super().__init__(tasks)
        levels = settings.expert_blocks
        self.stem, _first = split_encoder(encoder, levels)
        self.shared_experts = settings.shared_experts
        self.levels = nn.ModuleList(
            Extraction(tasks, encoder, width, settings.shared_experts, last=level + 1 == levels)
            for level in range(levels)
        )

    def forward(self, x: Tensor, lengths: Tensor, tasks: Iterable[str]) -> dict[str, Tensor]:
        shared = self.stem(x, lengths)
        states = dict.fromkeys(self.tasks, shared)
        for depth, level in enumerate(self.levels):
            if depth + 1 == len(self.levels):
                states = {task: states[task] for task in tasks}
            states, shared, gates = level(states, shared, lengths)
            for name, gate in gates.items():
                self.see(f"{depth} {name}", gate, lengths > 0)
        return states

    def part(self, name: str) -> str:
        return "shared experts" if name.startswith("levels.") else super().part(name)

    def layers(self) -> dict[Layer, nn.Module]:
        """The shared blocks, then the shared experts and the tasks' experts of each level."""
        layers = _blocks(self.stem)
        for depth, module in enumerate(self.levels):
            level = cast(Extraction, module)
            suffix = f" at level {depth + 1}" if len(self.levels) > 1 else ""
            for number, expert in enumerate(level.shared_experts):
                layers[Layer(SHARED, f"expert {number + 1}{suffix}")] = expert
            for task, own in level.task_experts.items():
                layers[Layer(task, f"own expert{suffix}")] = own
        return layers

    def diagnostics(self) -> dict[str, Tensor]:
        """gates (levels, K, 1 + shared): mean gate of each task, its own expert first. With several levels also
        shared_gates (levels - 1, K + shared)."""
        levels, tasks, shared = len(self.levels), len(self.tasks), self.shared_experts
        gates = [f"{depth} {task}" for depth in range(levels) for task in self.tasks]
        shared_gates = [f"{depth} {SHARED}" for depth in range(levels - 1)]
        return {
            **self.means("gates", gates, levels, tasks, 1 + shared),
            **self.means("shared_gates", shared_gates, levels - 1, tasks + shared),
        }
