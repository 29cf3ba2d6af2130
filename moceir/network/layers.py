"""The small parts every block is made of: channel normalisation, convolutions, feed-forward, resampling.

All maps are (B, C, H, W). They are fastest in ``torch.channels_last`` memory, which :class:`~moceir.MoCEIR`
sees to; every layer here keeps whichever order it is given.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def pointwise(in_dim: int, out_dim: int, *, bias: bool) -> nn.Conv2d:
    """1×1 convolution: the same linear map at every pixel."""
    return nn.Conv2d(in_dim, out_dim, kernel_size=1, bias=bias)


def depthwise(dim: int, kernel_size: int, *, bias: bool) -> nn.Conv2d:
    """k×k convolution of each channel by itself, zero-padded to keep H and W."""
    return nn.Conv2d(dim, dim, kernel_size=kernel_size, padding=kernel_size // 2, groups=dim, bias=bias)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel (biased variance, eps 1e-5, weight and bias)."""

    EPSILON = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        # In channels_last memory both permutations are views, and layer_norm runs on contiguous rows.
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FeedForward(nn.Module):
    """Gated depth-wise feed-forward network (GDFN; Restormer, arXiv 2111.09881, eq. 3), expansion 2."""

    def __init__(self, *, dim: int, bias: bool) -> None:
        super().__init__()
        hidden = 2 * dim
        self.expand = pointwise(dim, 2 * hidden, bias=bias)
        self.mix = depthwise(2 * hidden, 3, bias=bias)
        self.project = pointwise(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        gate, value = self.mix(self.expand(x)).chunk(2, dim=1)
        return self.project(F.gelu(gate) * value)


class Downsample(nn.Sequential):
    """(B, C, H, W) -> (B, 2C, H/2, W/2); H and W even."""

    def __init__(self, *, dim: int) -> None:
        super().__init__(nn.Conv2d(dim, dim // 2, kernel_size=3, padding=1, bias=False), nn.PixelUnshuffle(2))


class Upsample(nn.Sequential):
    """(B, C, H, W) -> (B, C/2, 2H, 2W)."""

    def __init__(self, *, dim: int) -> None:
        super().__init__(nn.Conv2d(dim, 2 * dim, kernel_size=3, padding=1, bias=False), nn.PixelShuffle(2))
