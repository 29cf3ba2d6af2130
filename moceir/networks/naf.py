"""The second network: a plain U-Net of gated convolution blocks, under the same limit of multiply-adds.

Its blocks are those of NAFNet (Chen et al., ECCV 2022, arXiv 2204.04676): the product of two halves in place of an
activation, channel attention by one 1×1 on the mean over the picture, no softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from moceir.networks.config import NetworkConfig
from moceir.networks.layers import (
    ChannelNorm,
    Convolution,
    OfMean,
    convolve,
    depthwise,
    fold_norm,
    join,
    pointwise,
    some_channels,
    times,
)
from moceir.networks.neighbourhoods import ROWS, between, means_around, sum_over_cells
from moceir.networks.routes import Run
from moceir.networks.strips import NO_HALO, Block, Halo, Strip, Sums, pixels, sum_over_pixels
from moceir.networks.unet import UNet


class GatedBlock(Block):
    """x + β·W(a ⊙ g) with g = gate(dw3×3(1×1(LN(x)))) and a = 1×1(mean of g); then y + γ·1×1(gate(1×1(LN(y)))).

    A gate is the product of two halves of the channels; β and γ are gains of each channel that start at 0. First pass:
    the sum of g, which is kept. Second: the result.

    Args:
        dim: channels of the map.
        width: channels of a gated map for each of the map's.
        side: pixels of a side of the squares that the mean of g is over, as of
            :mod:`moceir.networks.neighbourhoods`; None for a mean over the picture.
    """

    reaches = (1, 0)
    keeps = 0
    folded = False

    def __init__(self, *, dim: int, width: float = 1, side: int | None = None) -> None:
        super().__init__()
        gated = max(1, round(width * dim))
        self.side = side
        self.alignment = 1 if side is None else side // ROWS
        self.norm1 = ChannelNorm(dim)
        self.expand1 = pointwise(dim, 2 * gated, bias=True)
        self.mix = depthwise(2 * gated, 3, bias=True)
        self.attention = OfMean(gated, gated, None if side is None else side // 2)
        self.project1 = pointwise(gated, dim, bias=True)
        self.gain1 = nn.Parameter(torch.zeros(dim, 1, 1))
        self.norm2 = ChannelNorm(dim)
        self.expand2 = pointwise(dim, 2 * gated, bias=True)
        self.project2 = pointwise(gated, dim, bias=True)
        self.gain2 = nn.Parameter(torch.zeros(dim, 1, 1))

    def summarise(self, strip: Strip, known: list[Any]) -> tuple[Sums, Float[Tensor, "b c h w"]]:
        """Return the sums of the gated map and its number of pixels, or those of its cells, and keep the map."""
        normed = self.norm1(strip.x)
        dim = self.project1.in_channels
        gated = times(*(some_channels(normed, self.expand1, self.mix, i, i + dim, strip.halo) for i in (0, dim)))
        if self.side is None:
            return Sums((sum_over_pixels(gated)[..., None, None], pixels(gated))), gated
        return sum_over_cells(gated, self.side), gated

    def conclude(self, sums: Sums, known: list[Any], run: Run) -> Float[Tensor, "b c rows columns"]:
        """Return the attention of each channel, everywhere or at each place."""
        if self.side is None:
            total, count = sums
            mean = (total / count).to(self.gain1.dtype)
            run.found.append(mean.flatten(1))
        else:  # only experts have squares, and no router comes behind them
            mean = means_around(sums).to(self.gain1.dtype)
        return self.attention(mean)

    def update(self, strip: Strip, known: list[Any]) -> Float[Tensor, "b c h w"]:
        """Return the block's result."""
        gated = strip.kept
        if gated is None:
            raise ValueError("the first pass keeps the gated map for the second")
        attention = known[0]
        if self.side is not None:
            attention = between(attention, self.side, strip.halo.top, *gated.shape[2:])
        if self.folded:
            weight = self.project1.weight
            if self.side is None:  # channel attention as part of the 1×1 after it
                weight = weight * attention.flatten()[:, None, None]
            else:
                gated = times(gated, attention)
            x = join("add", strip.x, gated, weight, self.project1.bias)
            return join("add", x, self._gated(x), self.project2.weight, self.project2.bias, in_place=True)
        x = strip.x + self.gain1 * self.project1(attention * gated)
        return x + self.gain2 * self.project2(self._gated(x))

    def _gated(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b gated h w"]:
        normed, layer, dim = self.norm2(x), self.expand2, self.project2.in_channels
        biases = (None, None) if layer.bias is None else layer.bias.split(dim)
        first, second = zip(layer.weight.split(dim), biases, strict=True)
        return join("mul", convolve(normed, *first), normed, *second)

    def fold(self) -> None:
        """Merge the norms' and the residual gains into the convolutions beside them."""
        self.expand1, self.expand2 = fold_norm(self.norm1, self.expand1), fold_norm(self.norm2, self.expand2)
        self.norm1.folded = self.norm2.folded = True
        for gain, project in ((self.gain1, self.project1), (self.gain2, self.project2)):
            project.weight.mul_(gain[..., None])
            if project.bias is not None:
                project.bias.mul_(gain.flatten())
        self.folded = True


class HalveAndWiden(Convolution):
    """(B, C, H, W) -> (B, 2C, H/2, W/2) by a 2×2 convolution; H and W even."""

    def __init__(self, *, dim: int) -> None:
        super().__init__(dim, 2 * dim, kernel_size=2, stride=2)


class DoubleAndNarrow(Convolution):
    """(B, C, H, W) -> (B, C/2, 2H, 2W) by a 1×1 and a pixel shuffle."""

    def __init__(self, *, dim: int) -> None:
        super().__init__(dim, 2 * dim, kernel_size=1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"], halo: Halo = NO_HALO) -> Float[Tensor, "b c//2 2*h 2*w"]:  # type: ignore[override]  # no activation
        """Double the resolution; no halo is needed."""
        return F.pixel_shuffle(super().forward(x), 2)


class Add(nn.Module):
    """Adds the skip of its level to a map."""

    def forward(self, x: Float[Tensor, "b c h w"], skip: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the sum."""
        return x + skip


@dataclass(frozen=True, kw_only=True)
class NAFNetConfig(NetworkConfig):
    """The arguments of :class:`NAFNet`, which says what each one means."""

    dim: int = 16
    num_blocks: Sequence[int] = (1, 2, 6)
    num_decoder_blocks: Sequence[int] = (5, 3)

    def check(self) -> None:
        """Raise ValueError when an argument is out of range."""
        if len(self.num_blocks) < 2 or len(self.num_decoder_blocks) != len(self.num_blocks) - 1:
            raise ValueError(
                f"num_blocks={list(self.num_blocks)}, num_decoder_blocks={list(self.num_decoder_blocks)}: give two "
                "levels or more, and a number of decoder blocks for each but the last"
            )
        if self.dim < 1 or min(*self.num_blocks, *self.num_decoder_blocks) < 0:
            raise ValueError("dim must be positive, and num_blocks and num_decoder_blocks not negative")


class NAFNet(UNet):
    """A U-Net of :class:`GatedBlock`; by default 0.26 M parameters and 29.68 GMACs at 1280×720, post-filter included.

    Level l works at 1/2^l of the resolution with ``dim`` · 2^l channels. The output convolution starts at zero, so an
    untrained network returns its input.

    Args:
        dim: channels at full resolution.
        num_blocks: encoder blocks of each level; the last level is the latent.
        num_decoder_blocks: decoder blocks of each level but the latent, full resolution first.
        mac_budget: as of :class:`moceir.MoCEIR`; there is one route only.

    Raises:
        ValueError: when an argument is out of range; the message names it.
    """

    Settings: type[NAFNetConfig] = NAFNetConfig

    def __init__(self, *, mac_budget: float | None = None, **arguments: Any) -> None:
        super().__init__()
        self.settings = settings = self.Settings(**arguments)
        dim, num_blocks, num_decoder_blocks = settings.dim, settings.num_blocks, settings.num_decoder_blocks
        levels = len(num_blocks)
        dims = [dim << level for level in range(levels)]
        decoder_levels = list(reversed(range(levels - 1)))

        self.embed = Convolution(3, dim, kernel_size=3, padding=1)
        self.encoder = nn.ModuleList(_encoding(dims[level], num_blocks[level]) for level in range(levels - 1))
        self.down = nn.ModuleList(HalveAndWiden(dim=dims[level]) for level in range(levels - 1))
        self.latent = self._latent(dims[-1], num_blocks[-1])
        self.up = nn.ModuleList(DoubleAndNarrow(dim=dims[level + 1]) for level in decoder_levels)
        self.fuse = nn.ModuleList(Add() for _ in decoder_levels)
        self.decoder = nn.ModuleList(self._decoding(dims[level], num_decoder_blocks[level]) for level in decoder_levels)
        self.refinement = nn.Sequential()
        self.output = Convolution(dim, 3, kernel_size=3, padding=1)
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)
        self.mac_budget = mac_budget

    def _decoding(self, dim: int, count: int) -> nn.Sequential:
        """Build a decoder level's blocks."""
        return _encoding(dim, count)

    def _latent(self, dim: int, count: int) -> nn.Sequential:
        """Build the latent's blocks."""
        return self._decoding(dim, count)


def _encoding(dim: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(GatedBlock(dim=dim) for _ in range(count)))
