"""Encoder and decoder blocks, and the mixture-of-complexity-experts layer between them (figure 2)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moceir.networks.attention import CrossAttention, Gram, OverlappingGram, SelfAttention
from moceir.networks.experts import Expert
from moceir.networks.layers import ChannelNorm, FeedForward, composed, fold_norm, plus, pointwise, times
from moceir.networks.routes import Routing, Run
from moceir.networks.routing import Router
from moceir.networks.strips import NO_HALO, Block, Halo, Strip, Sums, pixels, sum_over_pixels


class EncoderBlock(Block):
    """Restormer's block: x + MDTA(LN(x)), then x + GDFN(LN(x)); its convolutions have biases."""

    reaches = (1, 2)

    def __init__(self, *, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(dim)
        self.attention = SelfAttention(dim=dim, num_heads=num_heads, bias=True)
        self.norm2 = ChannelNorm(dim)
        self.feed_forward = FeedForward(dim=dim, bias=True)

    def prepare(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the normalised map."""
        return self.norm1(x)

    def summarise(self, strip: Strip, known: list[Any]) -> tuple[Gram, None]:
        """Return the sums of queries and keys."""
        return self.attention.gram(strip.prepared, strip.halo), None

    def conclude(self, sums: Sums, known: list[Any], run: Run) -> Float[Tensor, "b heads d d"]:
        """Return the matrices that mix the channels."""
        return Gram(sums).mixing(self.attention.temperature)

    def update(self, strip: Strip, known: list[Any]) -> Float[Tensor, "b c h w"]:
        """Return the block's result."""
        halo = strip.halo
        x = plus(self.attention(strip.prepared, known[0], halo), halo.crop(strip.x, keep=1))
        near = halo.less(1)
        return self.feed_forward(self.norm2(x), near, near.crop(x))

    def fold(self) -> None:
        """Merge the norms' gains into the convolutions after them, and the attention's projection into its matrix."""
        self.attention.qkv = fold_norm(self.norm1, self.attention.qkv)
        self.feed_forward.expand = fold_norm(self.norm2, self.feed_forward.expand)
        self.norm1.folded = self.norm2.folded = self.attention.folded = True


class MoCE(nn.Module):
    """Mixture of complexity experts: Σ gate_i · (x + E_i(x, s)) over the experts a picture takes, then a 1×1.

    Attributes:
        residual: what becomes of ``x`` itself; nothing, until a network is folded.
    """

    def __init__(self, *, dim: int, frequency_dim: int, windows: Sequence[int], topk: int, expert_kind: str) -> None:
        super().__init__()
        ranks = [max(1, dim >> shift) for shift in reversed(range(len(windows)))]
        self.experts = nn.ModuleList(
            Expert(dim=dim, rank=rank, window=window, kind=expert_kind)
            for rank, window in zip(ranks, windows, strict=True)
        )
        sizes = [sum(p.numel() for p in expert.parameters()) for expert in self.experts]
        # Numbers, because arithmetic on the meta device imports torch's compiler.
        complexity = torch.tensor([size / max(sizes) for size in sizes])
        self.router = Router(dim=dim, frequency_dim=frequency_dim, topk=topk, complexity=complexity)
        self.residual: nn.Module = nn.Identity()
        self.project: nn.Module = pointwise(dim, dim, bias=False)

    def forward(
        self, x: Float[Tensor, "b c h w"], shared: Float[Tensor, "b c rows w"], routing: Routing, halo: Halo = NO_HALO
    ) -> Float[Tensor, "b c rows w"]:
        """Run the chosen experts on ``x``, with a halo of three rows, and ``shared``, without one -> (B, C, H, W)."""
        # Each expert sees only its own pictures, all at once; most of a batch's cost is thus one pass.
        choices = routing.experts.tolist()
        outputs, order = [], []
        residual = self.residual(halo.crop(x))
        for index, expert in enumerate(self.experts):
            pictures = [picture for picture, chosen in enumerate(choices) if index in chosen]
            if pictures:
                gate = routing.gates[pictures, index][:, None, None, None]
                added = expert(_select(x, pictures), _select(shared, pictures), halo)
                outputs.append(times(plus(added, _select(residual, pictures)), gate))
                order += pictures
        mixture = outputs[0] if len(outputs) == 1 else _gather(outputs, order, len(choices))
        return self.project(mixture)


def _select(x: Float[Tensor, "b c h w"], pictures: list[int]) -> Float[Tensor, "some c h w"]:
    """Return the given pictures of a batch, or the batch itself when it holds no others."""
    if len(pictures) == len(x):
        return x
    return _pick(x, pictures)


def _pick(x: Float[Tensor, "b c h w"], pictures: list[int]) -> Float[Tensor, "some c h w"]:
    """Select pictures like ``x[pictures]``, with a faster gradient."""
    index = torch.tensor(pictures, device=x.device)
    return x.index_select(0, index).contiguous(memory_format=torch.channels_last)


def _gather(outputs: list[Float[Tensor, "_ c h w"]], order: list[int], batch: int) -> Float[Tensor, "b c h w"]:
    """Sum the experts' outputs, whose pictures stand in ``order``, into one batch."""
    joined = torch.cat(outputs)
    if len(order) == batch:  # one expert a picture: a permutation, no sum
        inverse = sorted(range(batch), key=order.__getitem__)
        return _pick(joined, inverse)
    index = torch.tensor(order, device=joined.device)
    return joined.new_zeros(batch, *joined.shape[1:]).index_add(0, index, joined)


class BranchInputs(NamedTuple):
    """The maps, (B, C, H, W) each, with which every pass of a decoder block begins."""

    shared: Float[Tensor, "b c h w"]
    """The shared expert's input."""
    routed: Float[Tensor, "b c h w"]
    """The routed experts' input."""


class DecoderBlock(Block):
    """A shared expert, a routed expert, cross-attention between the two, and a feed-forward network.

    First pass: the shared expert's sums, and the mean that the router sees. Second: the cross-attention's sums, and the
    shared expert's result, which is kept. Third: the block's result.
    """

    reaches = (1, 5, 4)
    keeps = 1

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
        self.to_shared: nn.Module = pointwise(dim, dim, bias=True)
        self.to_routed: nn.Module = pointwise(dim, dim, bias=True)
        self.shared = SelfAttention(dim=dim, num_heads=num_heads, bias=False)
        self.moce = MoCE(dim=dim, frequency_dim=frequency_dim, windows=windows, topk=topk, expert_kind=expert_kind)
        self.cross_attention = CrossAttention(dim=dim, num_heads=num_heads)
        self.norm2 = ChannelNorm(dim)
        self.feed_forward = FeedForward(dim=dim, bias=False)
        self.alignment = math.lcm(*windows)  # where windows of every size begin

    @property
    def experts(self) -> nn.ModuleList:
        """The experts among which the router chooses."""
        return self.moce.experts

    def prepare(self, x: Float[Tensor, "b c h w"]) -> BranchInputs:
        """Return the inputs of the shared and of the routed experts."""
        normed = self.norm1(x)
        return BranchInputs(self.to_shared(normed), self.to_routed(normed))

    def summarise(self, strip: Strip, known: list[Any]) -> tuple[Sums, Float[Tensor, "b c h w"] | None]:
        """See the class."""
        shared, routed = strip.prepared
        halo = strip.halo
        if not known:
            inside = halo.crop(routed)
            return Sums((*self.shared.gram(shared, halo), sum_over_pixels(inside), pixels(inside))), None
        mixing, routing = known[0]
        context = self.shared(shared, mixing, halo)
        kept = halo.less(4).crop(context)
        query = self.moce(halo.crop(routed, keep=3), kept, routing, halo.less(3))
        return self.cross_attention.gram(query, context, halo.less(4)), kept

    def conclude(self, sums: Sums, known: list[Any], run: Run) -> Any:
        """Return the shared expert's mixing matrices and the route; then those of the cross-attention."""
        if known:
            return OverlappingGram(sums).mixing(self.cross_attention.temperature)
        *gram, total, count = sums
        if run.frequency is None:
            raise ValueError("a decoder block routes by the frequency embedding, which must come before it")
        mean = (total / count).to(run.frequency.dtype)
        routing = self.moce.router(mean, run.frequency, run.rules(len(mean), mean.device))
        run.routings.append(routing)
        return Gram(gram).mixing(self.shared.temperature), routing

    def update(self, strip: Strip, known: list[Any]) -> Float[Tensor, "b c h w"]:
        """Return the block's result."""
        (_, routing), mixing = known
        halo, shared = strip.halo, strip.kept
        if shared is None:
            raise ValueError("the second pass keeps the shared expert's result for the third")
        update = self.cross_attention(shared, mixing, halo)
        if self.straight_through:
            # The published gate scales a query that is L2-normalised next, so with one expert it cancels and
            # the restoration loss cannot train the router. A factor of exactly 1 with the gate's gradient can.
            gate = routing.gates.sum(dim=1)[:, None, None, None]
            update = update * (gate / gate.detach())
        x = plus(update, halo.crop(strip.x, keep=1))
        near = halo.less(1)
        return self.feed_forward(self.norm2(x), near, near.crop(x))

    def fold(self) -> None:
        """Merge consecutive 1×1 convolutions; the experts then do all that happens to their input."""
        attention, moce = self.cross_attention, self.moce
        to_query = composed(attention.query, moce.project)
        moce.residual = fold_norm(self.norm1, composed(to_query, self.to_routed))
        for expert in cast("Iterable[Expert]", moce.experts):
            expert.reduce = fold_norm(self.norm1, composed(expert.reduce, self.to_routed))
            expert.expand = composed(to_query, expert.expand)
        router = fold_norm(self.norm1, composed(moce.router.features, self.to_routed))
        moce.router.features = nn.Linear(router.in_channels, router.out_channels).to(router.weight)
        moce.router.features.load_state_dict({"weight": router.weight.flatten(1), "bias": router.bias})
        self.shared.qkv = fold_norm(self.norm1, composed(self.shared.qkv, self.to_shared))
        self.feed_forward.expand = fold_norm(self.norm2, self.feed_forward.expand)
        self.to_shared, self.to_routed = nn.Identity(), nn.Identity()
        moce.project, attention.query = nn.Identity(), nn.Identity()
        self.norm1.folded = self.norm2.folded = self.shared.folded = attention.folded = True
