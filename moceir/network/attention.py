"""Attention between channels, whose cost is linear in the number of pixels (Restormer, arXiv 2111.09881, eq. 1)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from moceir.network.layers import depthwise, pointwise


def channel_attention(query: Tensor, key: Tensor, value: Tensor, temperature: Tensor) -> Tensor:
    """softmax(q̂ k̂ᵀ · temperature) v, where a token is one channel's whole map and ˆ its L2 normalisation.

    Args:
        query, key, value: (B, C, H, W).
        temperature: (heads, 1, 1); C is a multiple of heads, and channels attend within their head.

    Returns:
        (B, C, H, W).
    """
    height, heads = query.shape[2], temperature.shape[0]
    query, key, value = (rearrange(x, "b (heads c) h w -> b heads c (h w)", heads=heads) for x in (query, key, value))
    # Dividing the small C×C product by the norms spares normalised copies of the two large maps.
    # torch.sum is exact enough for millions of pixels, torch.linalg.vector_norm is not.
    norms = [x.square().sum(dim=-1, keepdim=True).clamp_min(1e-24).sqrt() for x in (query, key)]
    similarity = (query @ key.mT) / (norms[0] * norms[1].mT)
    attended = (similarity * temperature).softmax(dim=-1) @ value
    return rearrange(attended, "b heads c (h w) -> b (heads c) h w", h=height)


class SelfAttention(nn.Module):
    """Multi-head attention between the channels of one map (MDTA); the document's shared expert S, eq. 3."""

    def __init__(self, *, dim: int, num_heads: int, bias: bool) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = pointwise(dim, 3 * dim, bias=bias)
        self.qkv_mix = depthwise(3 * dim, 3, bias=bias)
        self.project = pointwise(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        query, key, value = self.qkv_mix(self.qkv(x)).chunk(3, dim=1)
        return self.project(channel_attention(query, key, value, self.temperature))


class CrossAttention(nn.Module):
    """Channel attention with queries from one map, keys and values from another; no biases."""

    def __init__(self, *, dim: int, num_heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.query = pointwise(dim, dim, bias=False)
        self.query_mix = depthwise(dim, 3, bias=False)
        self.key_value = pointwise(dim, 2 * dim, bias=False)
        self.key_value_mix = depthwise(2 * dim, 7, bias=False)
        self.project = pointwise(dim, dim, bias=False)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``x`` (queries) and ``context`` (keys, values), both (B, C, H, W) -> (B, C, H, W)."""
        query = self.query_mix(self.query(x))
        key, value = self.key_value_mix(self.key_value(context)).chunk(2, dim=1)
        return self.project(channel_attention(query, key, value, self.temperature))
