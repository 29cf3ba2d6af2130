"""The small parts every block is made of: channel normalisation, convolutions, feed-forward, resampling.

All maps are (B, C, H, W). They are fastest in ``torch.channels_last`` memory, which :class:`~moceir.MoCEIR`
sees to; every layer here keeps whichever order it is given.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input, conv2d_weight


def pointwise(in_dim: int, out_dim: int, *, bias: bool) -> nn.Conv2d:
    """1×1 convolution: the same linear map at every pixel."""
    return nn.Conv2d(in_dim, out_dim, kernel_size=1, bias=bias)


def depthwise(dim: int, kernel_size: int, *, bias: bool) -> nn.Conv2d:
    """k×k convolution of each channel by itself, zero-padded to keep H and W."""
    kind = WideDepthwise if kernel_size == 7 else nn.Conv2d
    return kind(dim, dim, kernel_size=kernel_size, padding=kernel_size // 2, groups=dim, bias=bias)


class WideDepthwise(nn.Conv2d):
    """A depth-wise 7×7 convolution that trains faster on a CPU; the result is that of its base class."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if self.training and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            return cast(Tensor, _WideDepthwise.apply(x, self.weight, self.bias))
        return super().forward(x)


class _WideDepthwise(torch.autograd.Function):
    """The gradient of a 7×7's weights from those of 7×3, 7×1 and 7×3: oneDNN has fast kernels for these widths only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=3, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        dim = len(weight)
        grad = grad.contiguous(memory_format=torch.channels_last)

        def columns(padded: Tensor, count: int) -> Tensor:
            return conv2d_weight(padded, (dim, 1, 7, count), grad, padding=(3, 0), groups=dim)

        left, right = F.pad(x, (3, -1)), F.pad(x, (-1, 3))
        grad_weight = torch.cat([columns(left, 3), columns(x, 1), columns(right, 3)], dim=3)
        grad_x = conv2d_input(list(x.shape), weight, grad, padding=3, groups=dim)
        return grad_x, grad_weight, grad.sum(dim=(0, 2, 3)) if ctx.needs_input_grad[2] else None


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
        # Half the channels of a map are not contiguous, and GELU is slow on what is not.
        return self.project(F.gelu(gate.contiguous(memory_format=torch.channels_last)) * value)


class Downsample(nn.Sequential):
    """(B, C, H, W) -> (B, 2C, H/2, W/2); H and W even."""

    def __init__(self, *, dim: int) -> None:
        super().__init__(nn.Conv2d(dim, dim // 2, kernel_size=3, padding=1, bias=False), nn.PixelUnshuffle(2))


class Upsample(nn.Sequential):
    """(B, C, H, W) -> (B, C/2, 2H, 2W)."""

    def __init__(self, *, dim: int) -> None:
        super().__init__(nn.Conv2d(dim, 2 * dim, kernel_size=3, padding=1, bias=False), nn.PixelShuffle(2))
