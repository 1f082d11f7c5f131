"""Sharing modes at the same number of parameters, so that a comparison does not depend on model size.

    for row in equal_parameters(config, codec):
        print(row.mode, row.parameters, row.ratio, row.flops, row.flops_ratio)

Heads, front-ends and width are unchanged. The encoder's feed-forward width is adjusted: each unit adds the same number
of parameters, so the width follows by division. A mode with several encoders loses a block first if the feed-forward
width would fall below a quarter of the model's width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mtl.config.model import ModelConfig
from mtl.config.sharing import MODES
from mtl.inputs.batch import Batch, collate
from mtl.inputs.codec import Codec
from mtl.models.joint import build_model

REFERENCE = "hard"
TOLERANCE = 0.03
LEAST_HIDDEN = 1 / 4  # of the model's width
SECONDS = 4.0  # of the recording whose forward pass is counted, at FRAME_SECONDS a frame
FRAME_SECONDS = 0.01


@dataclass(frozen=True)
class Row:
    """flops: of a forward pass of front-end and trunk for all tasks with audio, on a recording of SECONDS.

    ratio, flops_ratio: relative to `hard`.
    """

    mode: str
    config: ModelConfig
    parameters: int
    ratio: float
    flops: int
    flops_ratio: float


def equal_parameters(config: ModelConfig, codec: Codec, modes: Iterable[str] = tuple(MODES)) -> list[Row]:
    """One row per mode: `config` with `hidden` and if necessary `blocks` changed to the size of `hard`."""
    reference = in_mode(config, REFERENCE)
    parameters, flops = count_parameters(reference, codec), count_flops(reference, codec)
    rows = []
    for mode in modes:
        fitted = reference if mode == REFERENCE else fit_size(in_mode(config, mode), codec, parameters)
        own, own_flops = count_parameters(fitted, codec), count_flops(fitted, codec)
        rows.append(Row(mode, fitted, own, own / parameters, own_flops, own_flops / flops))
    return rows


def in_mode(config: ModelConfig, mode: str) -> ModelConfig:
    return replace(config, sharing=config.sharing.replace(mode=mode))


def fit_size(config: ModelConfig, codec: Codec, target: int) -> ModelConfig:
    """`config` with the deepest encoder of about `target` parameters and at least LEAST_HIDDEN. Raises ValueError."""
    fewest = max(1, config.sharing.settings.fewest_blocks)
    least = max(1, round(config.width * LEAST_HIDDEN))
    for blocks in range(config.blocks, fewest - 1, -1):
        one, two = (count_parameters(replace(config, blocks=blocks, hidden=units), codec) for units in (1, 2))
        hidden = 1 + round((target - one) / (two - one))
        parameters = one + (hidden - 1) * (two - one)
        if hidden >= least and abs(parameters / target - 1) <= TOLERANCE:
            return replace(config, blocks=blocks, hidden=hidden)
    raise ValueError(
        f"{config.sharing.mode} with {len(config.tasks)} tasks cannot be made as small as {target:,} parameters "
        f"within {TOLERANCE:.0%}: {fewest} blocks with {least} units in each feed-forward layer are more. Compare at "
        f"more blocks than {config.blocks}, with fewer tasks or experts, or leave this mode out"
    )


def count_parameters(config: ModelConfig, codec: Codec) -> int:
    """Parameters of the whole model: front-ends, trunk, and heads."""
    with torch.device("meta"):  # shapes without memory
        return sum(parameter.numel() for parameter in build_model(config, codec).parameters())


@torch.no_grad()
def count_flops(config: ModelConfig, codec: Codec) -> int:
    """Floating-point operations (see Row) of matrix products and convolutions, as torch counts them."""
    model = build_model(config, codec).eval()
    batch = recording(config, codec)
    tasks = [name for name in config.tasks if batch.group in model.task(name).groups]
    # torch does not count fused attention on the CPU; the MATH backend computes it as two matrix products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.encode(batch, tasks)
    return counter.get_total_flops()


def recording(config: ModelConfig, codec: Codec) -> Batch:
    """A batch of one silent recording of SECONDS."""
    frames = torch.zeros(round(SECONDS / FRAME_SECONDS), config.bins)
    return collate([codec.encode({"id": "silence", "audio": "none"})], [frames.numpy()])
