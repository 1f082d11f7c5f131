"""The little that data-parallel training needs: who am I, sum over ranks. Without a process group all is one rank."""

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
    """Rank 0's values, in place: what decides between branches must not differ by a rounding."""
    if world_size() > 1:
        dist.broadcast(x, src=0)
    return x


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Sums every gradient over ranks, in one message.

    A parameter that no rank used keeps its None: an optimiser would decay a zero. Who used what differs between
    ranks when labels are missing, so the ranks first agree on it, and an idle rank joins in with zeros.
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
    """Every rank takes rank 0's parameters and buffers."""
    if world_size() > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.data, src=0)
