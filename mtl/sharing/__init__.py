"""Trunks: how much of the encoder the tasks share. To add a sharing mode, write a Trunk and name it in TRUNKS.

trunk = TRUNKS[config.sharing](tasks=..., encoder=..., width=..., ...)     # the contract stands in base.py

| mode | what runs for the named tasks |
|---|---|
| hard | the shared encoder once, their heads |
| soft | their encoders |
| cross_stitch | every task's encoder: each is stitched to all others |
| mmoe | the shared blocks and every expert once, their gates |
| ple | the shared blocks, the shared experts and theirs; below the last level the experts of all tasks |
| attention | the shared encoder once, their masks |
| graph | the shared encoder once, their heads and those of their neighbours in the task graph |
| adapter | the first block once, the others once for each of them, their adapters |

What a task is given never depends on which other tasks are asked for beside it.
"""

from __future__ import annotations

from collections.abc import Callable

from mtl.sharing.adapter import AdapterTrunk
from mtl.sharing.attention import AttentionTrunk
from mtl.sharing.base import SHARED, Layer, MakeEncoder, Trunk
from mtl.sharing.cross_stitch import CrossStitchTrunk
from mtl.sharing.experts import MMoETrunk, PLETrunk
from mtl.sharing.graph import GraphTrunk
from mtl.sharing.hard import HardTrunk
from mtl.sharing.soft import DISTANCES, SoftTrunk

__all__ = [
    "DISTANCES",
    "SHARED",
    "TRUNKS",
    "AdapterTrunk",
    "AttentionTrunk",
    "CrossStitchTrunk",
    "GraphTrunk",
    "HardTrunk",
    "Layer",
    "MMoETrunk",
    "MakeEncoder",
    "PLETrunk",
    "SoftTrunk",
    "Trunk",
]

TRUNKS: dict[str, Callable[..., Trunk]] = {
    "hard": HardTrunk,
    "soft": SoftTrunk,
    "cross_stitch": CrossStitchTrunk,
    "mmoe": MMoETrunk,
    "ple": PLETrunk,
    "attention": AttentionTrunk,
    "graph": GraphTrunk,
    "adapter": AdapterTrunk,
}
