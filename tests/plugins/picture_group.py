"""The input group of pictures: grey values of 8 x 8 pixels, through one strided convolution."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mtl.inputs.group import InputGroup, Inputs

SIDE = 8  # pixels
STATES = (SIDE // 2) ** 2


@dataclass(frozen=True)
class PictureInputs(Inputs):
    """pixels (B, 8, 8) of 0 to 1, lengths (B,) in states."""

    pixels: Tensor


class PictureGroup(InputGroup):
    def encode(self, row: Mapping[str, Any], codec: Any) -> np.ndarray | None:
        content = row.get(self.spec.source)
        return None if content is None else pixels(io.BytesIO(base64.b64decode(content)))

    def collate(self, arrays: Sequence[np.ndarray]) -> PictureInputs:
        return PictureInputs(torch.full((len(arrays),), STATES), torch.from_numpy(np.stack(arrays)))

    def modules(self, config: Any, codec: Any) -> dict[str, nn.Module]:
        return {self.name: PictureFrontend(config.width)}


class PictureFrontend(nn.Module):
    """A state for each square of 2 x 2 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, width, kernel_size=3, stride=2, padding=1)
        self.position = nn.Parameter(0.1 * torch.randn(STATES, width))

    def forward(self, pixels: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """pixels (B, 8, 8), lengths (B,) -> states (B, 16, D), lengths (B,)."""
        x = self.convolution(pixels[:, None]).flatten(2).transpose(1, 2)
        return torch.relu(x) + self.position, lengths


def pixels(file: IO[bytes]) -> np.ndarray:
    """(8, 8) float32 of 0 to 1. Raises ValueError."""
    try:
        with Image.open(file) as picture:
            grey = picture.convert("L").resize((SIDE, SIDE))
    except OSError as error:
        raise ValueError(str(error)) from error
    return np.asarray(grey, dtype=np.float32) / 255
