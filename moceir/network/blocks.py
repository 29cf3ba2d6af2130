"""Encoder and decoder blocks, and the mixture-of-complexity-experts layer between them (figure 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moceir.network.attention import CrossAttention, SelfAttention
from moceir.network.experts import Expert
from moceir.network.layers import ChannelNorm, FeedForward, pointwise
from moceir.network.routing import Router, Routing, RoutingRules


class EncoderBlock(nn.Module):
    """Restormer's block: x + MDTA(LN(x)), then x + GDFN(LN(x)); its convolutions have biases."""

    def __init__(self, *, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(dim)
        self.attention = SelfAttention(dim=dim, num_heads=num_heads, bias=True)
        self.norm2 = ChannelNorm(dim)
        self.feed_forward = FeedForward(dim=dim, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))


class MoCE(nn.Module):
    """Mixture of complexity experts: Σ gate_i · E_i(x, s) over the experts an image takes, then a 1×1."""

    def __init__(self, *, dim: int, frequency_dim: int, windows: Sequence[int], topk: int, expert_kind: str) -> None:
        super().__init__()
        ranks = [max(1, dim >> shift) for shift in reversed(range(len(windows)))]
        self.experts = nn.ModuleList(
            Expert(dim=dim, rank=rank, window=window, kind=expert_kind)
            for rank, window in zip(ranks, windows, strict=True)
        )
        sizes = torch.tensor([float(sum(p.numel() for p in expert.parameters())) for expert in self.experts])
        self.router = Router(dim=dim, frequency_dim=frequency_dim, topk=topk, complexity=sizes / sizes.max())
        self.project = pointwise(dim, dim, bias=False)

    def forward(self, x: Tensor, shared: Tensor, routing: Routing) -> Tensor:
        """``x`` and ``shared`` (B, C, H, W), routed as decided -> (B, C, H, W)."""
        # Each expert sees only its own images, all at once; most of a batch's cost is thus one pass.
        choices = routing.experts.tolist()
        outputs, order = [], []
        for index, expert in enumerate(self.experts):
            images = [image for image, chosen in enumerate(choices) if index in chosen]
            if images:
                gate = routing.gates[images, index][:, None, None, None]
                outputs.append(expert(_select(x, images), _select(shared, images)) * gate)
                order += images
        mixture = outputs[0] if len(outputs) == 1 else _gather(outputs, order, len(choices))
        return self.project(mixture)


def _select(x: Tensor, images: list[int]) -> Tensor:
    """The given images of a batch; the batch itself when that is all of them."""
    if len(images) == len(x):
        return x
    return _pick(x, images)


def _pick(x: Tensor, images: list[int]) -> Tensor:
    """The given images; unlike ``x[images]``, whose gradient is slow."""
    index = torch.tensor(images, device=x.device)
    return x.index_select(0, index).contiguous(memory_format=torch.channels_last)


def _gather(outputs: list[Tensor], order: list[int], batch: int) -> Tensor:
    """Sum the experts' outputs, whose images stand in ``order``, into one batch."""
    joined = torch.cat(outputs)
    if len(order) == batch:  # one expert an image: a permutation, no sum
        inverse = sorted(range(batch), key=order.__getitem__)
        return _pick(joined, inverse)
    index = torch.tensor(order, device=joined.device)
    return joined.new_zeros(batch, *joined.shape[1:]).index_add(0, index, joined)


class DecoderBlock(nn.Module):
    """A shared expert, a routed expert, cross-attention between the two, and a feed-forward network."""

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        frequency_dim: int,
        windows: Sequence[int],
        topk: int,
        expert_kind: str,
        gating: str,
    ) -> None:
        super().__init__()
        self.straight_through = gating == "straight_through"
        self.norm1 = ChannelNorm(dim)
        self.to_shared = pointwise(dim, dim, bias=True)
        self.to_routed = pointwise(dim, dim, bias=True)
        self.shared = SelfAttention(dim=dim, num_heads=num_heads, bias=False)
        self.moce = MoCE(dim=dim, frequency_dim=frequency_dim, windows=windows, topk=topk, expert_kind=expert_kind)
        self.cross_attention = CrossAttention(dim=dim, num_heads=num_heads)
        self.norm2 = ChannelNorm(dim)
        self.feed_forward = FeedForward(dim=dim, bias=False)

    def forward(self, x: Tensor, frequency: Tensor, rules: RoutingRules) -> tuple[Tensor, Routing]:
        """``x`` (B, C, H, W) and the frequency embedding (B, d) -> (B, C, H, W) and how it was routed."""
        normed = self.norm1(x)
        shared = self.shared(self.to_shared(normed))
        routed = self.to_routed(normed)
        routing = self.moce.router(routed, frequency, rules)
        update = self.cross_attention(self.moce(routed, shared, routing), shared)
        if self.straight_through:
            # The published gate scales a query that is L2-normalised next, so with one expert it cancels and
            # the restoration loss cannot train the router. A factor of exactly 1 with the gate's gradient can.
            gate = routing.gates.sum(dim=1)[:, None, None, None]
            update = update * (gate / gate.detach())
        x = x + update
        return x + self.feed_forward(self.norm2(x)), routing
