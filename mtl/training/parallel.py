"""Sums and broadcasts over the ranks of data-parallel training; one rank without a process group."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def all_sum(x: Tensor) -> Tensor:
    """Sum over ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(x)
    return x


def from_first(x: Tensor) -> Tensor:
    """Rank 0's values, in place, where rounding errors must not lead to different branches."""
    if world_size() > 1:
        dist.broadcast(x, src=0)
    return x


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Sums every gradient over ranks, in one message.

    A parameter without a gradient on any rank keeps None: the optimiser would apply weight decay to a zero gradient.
    Missing labels make the used parameters differ between ranks; a rank without a gradient contributes zeros.
    """
    if world_size() == 1:
        return
    parameters = list(parameters)
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32, device=parameters[0].device)
    active = [p for p, ranks in zip(parameters, all_sum(used).tolist(), strict=True) if ranks]
    if not active:
        return
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten().float() for p in active])
    all_sum(flat)
    for parameter, piece in zip(active, flat.split([p.numel() for p in active]), strict=True):
        parameter.grad = piece.view_as(parameter).to(parameter.dtype)


def broadcast(module: nn.Module) -> None:
    """Copies the parameters and buffers of rank 0 to every rank."""
    if world_size() > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.data, src=0)
