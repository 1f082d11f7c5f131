"""Layers of the tasks `prosody` and `mel`: from phones to frames.

After FastSpeech 2 (Ren et al. 2021): duration, pitch and energy are predicted for phones, phones are stretched to
frames by their durations, and all log-mel frames are computed at once. Speaker and emotion scale and shift every layer
(conditional layer normalisation, Chen et al. 2021). Blocks are ConvNeXt's (Liu et al. 2022, for speech Siuzdak 2023),
on a CPU several times faster than attention over frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtl.layers.encoder import padding_mask

KERNEL = 7  # phones or frames


class ConditionalLayerNorm(nn.Module):
    """LayerNorm with scale and shift from a style embedding: (B, T, D), (B, D) -> (B, T, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.scale_shift = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.scale_shift(style)[:, None].chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift


class ConvBlock(nn.Module):
    """Residual block of a depthwise convolution and two linear layers: (B, T, D), mask (B, T) -> (B, T, D)."""

    def __init__(self, width: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.neighbours = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = ConditionalLayerNorm(width)
        self.widen = nn.Linear(width, expansion * width)
        self.narrow = nn.Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, style: Tensor) -> Tensor:
        convolved = self.neighbours((x * mask[..., None]).transpose(1, 2)).transpose(1, 2)
        return x + self.dropout(self.narrow(nn.functional.gelu(self.widen(self.norm(convolved, style)))))


class ConvStack(nn.Module):
    """Blocks and a final norm: (B, T, D) with lengths (B,) -> (B, T, D)."""

    def __init__(self, blocks: int, width: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConvBlock(width, expansion, dropout) for _ in range(blocks))
        self.norm = ConditionalLayerNorm(width)

    def forward(self, x: Tensor, lengths: Tensor, style: Tensor) -> Tensor:
        mask = padding_mask(lengths, x.shape[1])
        for block in self.blocks:
            x = block(x, mask, style)
        return self.norm(x, style)


def stretch(x: Tensor, durations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Repeats the state of each phone for each of its frames.

    x (B, P, D), durations (B, P) whole frames, 0 for padding -> (B, T, D), lengths (B,), and the relative position of
    each frame in its phone, (B, T) within (0, 1); T is the longest sum of durations, at least 1.
    """
    ends = durations.cumsum(dim=1)
    lengths = ends[:, -1]
    frames = torch.arange(max(1, int(lengths.max())), device=x.device)
    phone = torch.searchsorted(ends, frames.expand(len(x), -1).contiguous(), right=True).clamp(max=x.shape[1] - 1)
    stretched = x.gather(1, phone[..., None].expand(-1, -1, x.shape[2]))
    own = durations.gather(1, phone).clamp(min=1)
    first = ends.gather(1, phone) - own
    position = (frames - first + 0.5) / own
    exists = padding_mask(lengths, len(frames))
    return stretched * exists[..., None], lengths, position.clamp(0, 1) * exists


def contour(values: Tensor, durations: Tensor, lengths: Tensor, frames: int) -> Tensor:
    """Values of phones as values of frames (B, T): linear between the middles of phones, constant at either end.

    values, durations (B, P), lengths (B,) phones, at least one each; T = frames.
    """
    ends = durations.cumsum(dim=1)
    middles = ends - durations / 2
    centres = torch.arange(frames, device=values.device, dtype=middles.dtype) + 0.5
    after = torch.searchsorted(middles, centres.expand(len(values), -1).contiguous(), right=True)
    last = (lengths - 1)[:, None]
    left, right = (after - 1).clamp(min=0).minimum(last), after.minimum(last)
    start, end = middles.gather(1, left), middles.gather(1, right)
    share = ((centres - start) / (end - start).clamp(min=1e-3)).clamp(0, 1).to(values.dtype)
    return torch.lerp(values.gather(1, left), values.gather(1, right), share)


def harmonics(pitch: Tensor, hertz: Tensor) -> Tensor:
    """(B, T, F) from pitch (B, T) in ln Hz and centres (F,) of mel bins in Hz: 1 on a harmonic, -1 between two,
    0 where bins are too wide to resolve harmonics.

    It is cos(2 pi f / f0), smoothed by the triangle of each mel filter, which multiplies it by sinc^2(width / f0).
    """
    width = torch.gradient(hertz)[0]
    ratio = (-pitch)[..., None].exp()
    return torch.cos(2 * torch.pi * hertz * ratio) * torch.sinc(width * ratio).square()
