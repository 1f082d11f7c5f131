"""The shared encoder: Conformer blocks (Gulati et al. 2020) with LayerNorm and rotary positions (Su et al. 2021).

LayerNorm instead of the paper's BatchNorm: it has no running statistics, which change while only a part of the model
trains, and gives the same result on any number of ranks. The result for a frame does not depend on padding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROTARY_BASE = 10_000.0


def padding_mask(lengths: Tensor, size: int) -> Tensor:
    """(B, T) bool, true for frames within the lengths (B,)."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def rotate(x: Tensor, start: int = 0) -> Tensor:
    """Rotary position embedding of queries or keys (B, H, T, D/H); start: position of the first."""
    half = x.shape[-1] // 2
    frequency = ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    position = torch.arange(start, start + x.shape[-2], device=x.device, dtype=torch.float32)
    angle = position[:, None] * frequency  # (T, D/2H)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Scaled dot-product attention of (B, H, T, D/H); mask (B, H, T, T') or broadcast to it, true: attend."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    # torch's CPU kernel takes four times as long backward in bf16 as in fp32.
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask)


class FeedForward(nn.Module):
    """LayerNorm, widen, SiLU, narrow, dropout; (B, T, D) -> (B, T, D), without the residual.

    hidden: number of units; None: expansion x width.
    """

    def __init__(self, width: int, expansion: int, dropout: float, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or width * expansion
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.narrow(F.silu(self.widen(self.norm(x)))))


class Attention(nn.Module):
    """Projections of multi-head self-attention, without the residual."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def projected(self, x: Tensor) -> Tensor:
        """(B, L, D) -> query, key and value, (3, B, H, L, D/H)."""
        batch, length, width = x.shape
        return self.project(self.norm(x)).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)

    def merged(self, attended: Tensor) -> Tensor:
        """(B, H, L, D/H) -> (B, L, D)."""
        return self.dropout(self.merge(attended.transpose(1, 2).flatten(2)))


class SelfAttention(Attention):
    """Attention over unmasked frames: x (B, T, D), mask (B, T) -> (B, T, D)."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = self.projected(x)
        return self.merged(attend(rotate(query), rotate(key), value, mask[:, None, None, :]))


class Convolution(nn.Module):
    """Gated pointwise, depthwise over time, SiLU, pointwise; without the residual."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.depthwise_norm = nn.LayerNorm(width)
        self.merge = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = F.glu(self.gate(self.norm(x)), dim=-1)
        x = x.masked_fill(~mask[..., None], 0.0)  # or the convolution would read padding
        x = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return self.dropout(self.merge(F.silu(self.depthwise_norm(x))))


class ConformerBlock(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, LayerNorm: (B, T, D) -> (B, T, D)."""

    def __init__(
        self, width: int, heads: int, kernel: int, expansion: int, dropout: float, hidden: int | None = None
    ) -> None:
        super().__init__()
        self.before = FeedForward(width, expansion, dropout, hidden)
        self.attention = SelfAttention(width, heads, dropout)
        self.convolution = Convolution(width, kernel, dropout)
        self.after = FeedForward(width, expansion, dropout, hidden)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + 0.5 * self.before(x)
        x = x + self.attention(x, mask)
        x = x + self.convolution(x, mask)
        x = x + 0.5 * self.after(x)
        return self.norm(x)


class Encoder(nn.Module):
    """A stack of Conformer blocks, (B, T, D) with lengths (B,) -> (B, T, D)."""

    def __init__(
        self,
        blocks: int,
        width: int,
        heads: int,
        kernel: int,
        expansion: int,
        dropout: float,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ConformerBlock(width, heads, kernel, expansion, dropout, hidden) for _ in range(blocks)
        )

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        mask = padding_mask(lengths, x.shape[1])
        for block in self.blocks:
            x = block(x, mask)
        return x
