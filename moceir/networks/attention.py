"""Attention between channels, whose cost is linear in the number of pixels (Restormer, arXiv 2111.09881, eq. 1).

softmax(q̂ k̂ᵀ · temperature) v, where a token is one channel's whole map and ˆ its L2 normalisation; channels attend
within their head. Dividing the small product of queries and keys by their norms spares normalised copies of large maps,
and product and norms are sums over pixels.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from moceir.networks.layers import Convolution, convolve, depthwise, inferring_on_cpu, pointwise, some_channels
from moceir.networks.strips import NO_HALO, Halo, Sums, sum_over_pixels


class Gram(Sums):
    """Products of queries and keys (B, heads, c, c), squares of queries and of keys (B, heads, c, 1)."""

    @classmethod
    def of(cls, query_key: Float[Tensor, "b two_c h w"], heads: int) -> Gram:
        """Compute the sums over all pixels of queries and keys, of C channels each, a multiple of heads."""
        query, key = query_key.chunk(2, dim=1)
        return cls((_products(query, key, heads), *_squares(query_key, 2 * heads).chunk(2, dim=1)))

    def mixing(self, temperature: Float[Tensor, "heads 1 1"]) -> Float[Tensor, "b heads d d"]:
        """Return the matrices (B, heads, c, c) that mix the values; ``temperature`` is (heads, 1, 1)."""
        products, queries, keys = self[:3]
        norms = [squares.clamp_min(1e-24).sqrt() for squares in (queries, keys)]
        return ((products / (norms[0] * norms[1].mT)) * temperature).softmax(dim=-1)


class OverlappingGram(Gram):
    """A Gram matrix of queries that strips next to each other share.

    The depth-wise 3×3 before the queries is linear, so each strip contributes to the rows next to it, too. Products
    with keys just add up; where two strips contribute to a query, its square has a mixed term. To the sums come this
    strip's contributions to the first and to the last two rows, (B, heads, c, 2, W).
    """

    def plus(self, below: Sums) -> Sums:
        """Return the sums over this strip and the next one below it."""
        products, queries, keys = (one + other for one, other in zip(self[:3], below[:3], strict=True))
        mixed = 2 * (self[4] * below[3]).sum(dim=(-2, -1))[..., None]
        return OverlappingGram((products, queries + mixed, keys, self[3], below[4]))


def _products(
    query: Float[Tensor, "b c h w"], key: Float[Tensor, "b c h w"], heads: int
) -> Float[Tensor, "b heads d d"]:
    if not inferring_on_cpu(query):
        query, key = (rearrange(x, "b (heads c) h w -> b heads c (h w)", heads=heads) for x in (query, key))
        return query @ key.mT
    # Whole heads together, at least 16 channels where there are as many: narrower products are slow.
    dim = query.shape[1]
    side = dim // heads
    width = side
    while width < 16 and width < dim:
        width *= 2
    if dim % width:
        width = dim
    query, key = (x.permute(0, 2, 3, 1).flatten(1, 2) for x in (query, key))
    blocks = []
    for start in range(0, dim, width):
        product = query[..., start : start + width].mT @ key[..., start : start + width]
        blocks += [product[:, i : i + side, i : i + side] for i in range(0, width, side)]
    return torch.stack(blocks, dim=1)


def _squares(x: Float[Tensor, "b c h w"], heads: int) -> Float[Tensor, "b heads d 1"]:
    return rearrange(sum_over_pixels(x * x), "b (heads c) -> b heads c 1", heads=heads)


def attend(
    mixing: Float[Tensor, "b heads d d"], value: Float[Tensor, "b c h w"], project: Convolution, *, folded: bool
) -> Float[Tensor, "b c h w"]:
    """Values (B, C, H, W), mixed by (B, heads, c, c) and projected.

    Args:
        mixing: from :meth:`Gram.mixing`.
        value: of every pixel.
        project: the 1×1 that follows.
        folded: multiply the two matrices first, which spares an operation on every pixel; for a single picture.
    """
    mixing = mixing.to(project.weight.dtype)
    if folded:
        weight = project.weight[:, :, 0, 0] @ torch.block_diag(*mixing[0])
        return convolve(value, weight[:, :, None, None], project.bias)
    height, heads = value.shape[2], mixing.shape[1]
    mixed = mixing @ rearrange(value, "b (heads c) h w -> b heads c (h w)", heads=heads)
    return project(rearrange(mixed, "b heads c (h w) -> b (heads c) h w", h=height))


class SelfAttention(nn.Module):
    """Multi-head attention between the channels of one map (MDTA); the document's shared expert S, eq. 3.

    Attributes:
        folded: see :func:`attend`.
    """

    folded = False

    def __init__(self, *, dim: int, num_heads: int, bias: bool) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = pointwise(dim, 3 * dim, bias=bias)
        self.qkv_mix = depthwise(3 * dim, 3, bias=bias)
        self.project = pointwise(dim, dim, bias=bias)

    def gram(self, x: Float[Tensor, "b c h w"], halo: Halo) -> Gram:
        """Return the sums over the strip; ``x`` (B, C, H, W) has a halo of one row."""
        dim = self.project.in_channels
        return Gram.of(some_channels(x, self.qkv, self.qkv_mix, 0, 2 * dim, halo), len(self.temperature))

    def forward(
        self, x: Float[Tensor, "b c h w"], mixing: Float[Tensor, "b heads d d"], halo: Halo = NO_HALO
    ) -> Float[Tensor, "b c rows w"]:
        """Map ``x`` (B, C, H, W) with ``halo``, and its :meth:`Gram.mixing`, to (B, C, H, W) with ``halo.after(1)``."""
        dim = self.project.in_channels
        value = some_channels(x, self.qkv, self.qkv_mix, 2 * dim, 3 * dim, halo)
        return attend(mixing, value, self.project, folded=self.folded)

    def matmul_macs(self, height: int, width: int) -> int:
        """Return the multiply-adds outside convolutions: q kᵀ, and its product with v."""
        return _matmul_macs(self.project.in_channels, len(self.temperature), height * width)


class CrossAttention(nn.Module):
    """Channel attention with queries from one map, keys and values from another; no biases.

    Attributes:
        folded: see :func:`attend`.
    """

    folded = False

    def __init__(self, *, dim: int, num_heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.query: nn.Module = pointwise(dim, dim, bias=False)
        self.query_mix = depthwise(dim, 3, bias=False)
        self.key_value = pointwise(dim, 2 * dim, bias=False)
        self.key_value_mix = depthwise(2 * dim, 7, bias=False)
        self.project = pointwise(dim, dim, bias=False)

    def gram(self, x: Float[Tensor, "b c rows w"], context: Float[Tensor, "b c h w"], halo: Halo) -> OverlappingGram:
        """Sums over the strip.

        Args:
            x: (B, C, H, W), for queries, without halo.
            context: for keys, with ``halo`` of four rows.
            halo: of ``context``.
        """
        heads = len(self.temperature)
        near = halo.less(1)
        # With the rows next to the strip, which get what it contributes to them.
        mix, more = self.query_mix, max(near.above, near.below)
        wide = convolve(self.query(x), mix.weight, mix.bias, padding=(1 + more, 1), groups=mix.groups)
        query = Halo(more - near.above, more - near.below).crop(wide)
        dim = self.project.in_channels
        key = some_channels(context, self.key_value, self.key_value_mix, 0, dim, halo)
        products, squares = _products(query, key, heads), _squares(query, heads)
        split = rearrange(query, "b (heads c) h w -> b heads c h w", heads=heads)
        first, last = split[..., :2, :].contiguous(), split[..., -2:, :].contiguous()
        return OverlappingGram((products, squares, _squares(near.crop(key), heads), first, last))

    def forward(
        self, context: Float[Tensor, "b c h w"], mixing: Float[Tensor, "b heads d d"], halo: Halo = NO_HALO
    ) -> Float[Tensor, "b c rows w"]:
        """Map ``context`` (B, C, H, W) with ``halo``, which gives the values, to the same with ``halo.after(3)``."""
        dim = self.project.in_channels
        value = some_channels(context, self.key_value, self.key_value_mix, dim, 2 * dim, halo)
        return attend(mixing, value, self.project, folded=self.folded)

    def matmul_macs(self, height: int, width: int) -> int:
        """Return the multiply-adds outside convolutions: q kᵀ, and its product with v."""
        return _matmul_macs(self.project.in_channels, len(self.temperature), height * width)


def _matmul_macs(dim: int, heads: int, pixels: int) -> int:
    return 2 * dim * dim // heads * pixels
