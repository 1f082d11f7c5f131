"""Adversarial losses: a network that learns to tell what was made from what is true, and what the maker learns from it.

    adversary = Adversary([PatchDiscriminator(8)], [view])     # a module: its parameters are trained beside the maker's
    loss = adversary(made, true)                       # (B,): what is to be made smaller, by both at once

One backward pass and one optimiser serve both sides: the judges see what was made without its graph, and the maker is
led by copies of the judges whose weights have none, so that each side's gradient is its own: both move at once, where
Goodfellow et al. (2014) take turns. Hinge losses (Lim and Ye 2017), and the distance of what the judges' layers see
(feature matching, Larsen et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

SLOPE = 0.1  # of LeakyReLU below zero
MATCHING = 1.0  # of the features' distance, beside the hinge

Judged = tuple[Tensor, list[Tensor]]  # a verdict (B, …) on many places, positive for true, and what each layer saw


class PatchDiscriminator(nn.Module):
    """Convolutions over a picture (B, C, T, F) that judge patches of it; every second layer halves F."""

    def __init__(self, channels: int, planes: int = 1, layers: int = 4, kernel: tuple[int, int] = (3, 9)) -> None:
        super().__init__()
        padding = kernel[0] // 2, kernel[1] // 2
        sizes = [planes, *[channels] * layers]
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(
                nn.Conv2d(before, after, kernel, stride=(1, 2 if number else 1), padding=padding)
            )
            for number, (before, after) in enumerate(pairwise(sizes))
        )
        self.verdict = nn.utils.parametrizations.weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, picture: Tensor) -> Judged:
        seen, x = [], picture
        for layer in self.layers:
            x = nn.functional.leaky_relu(layer(x), SLOPE)
            seen.append(x)
        return self.verdict(x), seen


class Adversary(nn.Module):
    """Several judges, each of its own view of what is made: view (B, …) -> (B, C, T, F)."""

    def __init__(self, judges: Sequence[nn.Module], views: Sequence[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.judges, self.views = nn.ModuleList(judges), tuple(views)

    def forward(self, made: Tensor, true: Tensor) -> Tensor:
        """(B,): means over judges of the judges' own loss, which is of no weight to the maker, and of the maker's."""
        total = made.new_zeros(len(made))
        for judge, view in zip(self.judges, self.views, strict=True):
            right, wanted = judge(view(true))
            wrong, _ = judge(view(made.detach()))
            total = total + _mean(torch.relu(1 - right)) + _mean(torch.relu(1 + wrong))
            held = {name: weight.detach() for name, weight in judge.named_parameters()}
            believed, seen = torch.func.functional_call(judge, held, (view(made),))
            far = [_mean((one - other.detach()).abs()) for one, other in zip(seen, wanted, strict=True)]
            total = total + _mean(torch.relu(1 - believed)) + MATCHING * torch.stack(far).mean(dim=0)
        return total / len(self.judges)


def _mean(x: Tensor) -> Tensor:
    """(B, …) -> (B,)."""
    return x.flatten(1).float().mean(dim=1)
