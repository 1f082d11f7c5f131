"""Adversarial losses: discriminators learn to tell generated from real inputs, and the generator learns from them.

    adversary = Adversary([PatchDiscriminator(8)], [transform])     # a module, trained beside the generator
    loss = adversary(generated, real)                               # (B,), to be minimised by both at once

One backward pass and one optimiser train both sides: the discriminators read detached generated inputs, and the
generator's loss comes from copies of the discriminators with detached weights, so each side has its own gradient.
Goodfellow et al. (2014) take turns instead. Hinge losses (Lim and Ye 2017) and feature matching (Larsen et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

SLOPE = 0.1  # of LeakyReLU below zero
MATCHING = 1.0  # weight of feature matching, relative to the hinge loss

Scored = tuple[Tensor, list[Tensor]]  # scores (B, …) of patches, positive for real, and the output of each layer


class PatchDiscriminator(nn.Module):
    """2-D convolutions that score patches of (B, C, T, F); all layers but the first halve F."""

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

    def forward(self, x: Tensor) -> Scored:
        outputs = []
        for layer in self.layers:
            x = nn.functional.leaky_relu(layer(x), SLOPE)
            outputs.append(x)
        return self.verdict(x), outputs


class Adversary(nn.Module):
    """Discriminators, each with the transform (B, …) -> (B, C, T, F) of its inputs."""

    def __init__(self, judges: Sequence[nn.Module], transforms: Sequence[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.judges, self.transforms = nn.ModuleList(judges), tuple(transforms)

    def forward(self, generated: Tensor, real: Tensor) -> Tensor:
        """(B,): means over discriminators of their own loss plus the loss of the generator."""
        total = generated.new_zeros(len(generated))
        for judge, transform in zip(self.judges, self.transforms, strict=True):
            score, features = judge(transform(real))
            total = total + _mean(torch.relu(1 - score))
            total = total + _mean(torch.relu(1 + judge(transform(generated.detach()))[0]))
            weights = {name: weight.detach() for name, weight in judge.named_parameters()}
            score, outputs = torch.func.functional_call(judge, weights, (transform(generated),))
            distances = [_mean((one - other.detach()).abs()) for one, other in zip(outputs, features, strict=True)]
            total = total + _mean(torch.relu(1 - score)) + MATCHING * torch.stack(distances).mean(dim=0)
        return total / len(self.judges)


def _mean(x: Tensor) -> Tensor:
    """(B, …) -> (B,)."""
    return x.flatten(1).float().mean(dim=1)
