"""The blocks of the network with everything folded that composes exactly, on one region of a map at a time.

Folded are: each layer normalisation's gain, shift and subtraction of the mean (linear, so part of the 1×1 that
follows); chains of 1×1 convolutions; the product with the attention matrix and the output projection after it (one
C×C product per pixel). Channel attention takes two passes over a picture: one sums products of queries and keys over
all pixels, one applies the matrix that follows from the sums. What lies between is computed anew rather than kept.

Each class takes a layer of :mod:`moceir.network` and computes what that does, up to rounding; its ``work`` lists its
multiply-adds. Maps are (1, C, H, W) in channels_last memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from moceir.inference.regions import Region, convolve
from moceir.network.attention import CrossAttention, SelfAttention
from moceir.network.blocks import DecoderBlock, EncoderBlock
from moceir.network.experts import Expert, SpectralMixer, pad_to_windows
from moceir.network.layers import ChannelNorm, FeedForward

Read = Callable[[Region], Tensor]
"""Gives a region of a map."""


class Work(NamedTuple):
    """Multiply-adds that are done at every pixel of each region."""

    macs: int
    margin: int = 0
    """How far around the region they are done, too."""
    reach: int = 0
    """Of the kernel: 1 for 3×3."""


class Linear(NamedTuple):
    """The same affine map at every pixel."""

    weight: Tensor
    """(out, in)"""
    bias: Tensor | None = None
    """(out,)"""

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Linear:
        """A 1×1 convolution, in double precision, so that folding rounds but once."""
        bias = None if layer.bias is None else layer.bias.detach().double()
        return cls(layer.weight.detach()[:, :, 0, 0].double(), bias)

    def after(self, first: Linear) -> Linear:
        """``first``, then this."""
        bias = self.bias
        if first.bias is not None:
            bias = self.weight @ first.bias + (0.0 if bias is None else bias)
        return Linear(self.weight @ first.weight, bias)

    def rows(self, start: int, stop: int | None = None) -> Linear:
        """Some of the outputs."""
        return Linear(self.weight[start:stop], None if self.bias is None else self.bias[start:stop])

    def single(self) -> Linear:
        """In single precision, to compute with."""
        return Linear(self.weight.float(), None if self.bias is None else self.bias.float())

    def __call__(self, x: Tensor, activation: str | None = None) -> Tensor:
        return convolve(x, self.weight[:, :, None, None], self.bias, activation=activation)

    def work(self, margin: int = 0) -> Work:
        return Work(self.weight.numel(), margin)


class Depthwise(NamedTuple):
    """A k×k convolution of each channel by itself."""

    weight: Tensor
    """(C, 1, k, k)"""
    bias: Tensor | None

    @classmethod
    def of(cls, layer: nn.Conv2d, start: int = 0, stop: int | None = None) -> Depthwise:
        """Some channels of a layer."""
        bias = None if layer.bias is None else layer.bias.detach()[start:stop].clone()
        return cls(layer.weight.detach()[start:stop].clone(), bias)

    @property
    def reach(self) -> int:
        return self.weight.shape[-1] // 2

    def __call__(self, x: Tensor, outer: Region, inner: Region, activation: str | None = None) -> Tensor:
        """X on ``outer``, which is ``inner.grow(reach)`` -> the result on ``inner``."""
        padding = inner.padding(outer, self.reach)
        return convolve(x, self.weight, self.bias, padding, groups=len(self.weight), activation=activation)

    def work(self, margin: int = 0) -> Work:
        return Work(self.weight.numel(), margin, self.reach)


def widened(work: Iterable[Work], margin: int) -> list[Work]:
    """The same work as far as ``margin`` around each region."""
    return [one._replace(margin=one.margin + margin) for one in work]


def whiten(x: Tensor) -> Tensor:
    """Divide each pixel by the standard deviation of its channels; :func:`after_norm` does the rest."""
    channels = x.permute(0, 2, 3, 1)
    average = x.new_full((1, x.shape[1]), 1 / x.shape[1])
    # Means as matrix products: torch's reductions are slow over as few numbers as there are channels.
    mean, power = F.linear(channels, average), F.linear(channels * channels, average)
    variance = (power - mean * mean).clamp_min_(0)
    return x * variance.add_(ChannelNorm.EPSILON).rsqrt_().permute(0, 3, 1, 2)


def whitening(norm: ChannelNorm, margin: int) -> Work:
    """The work of :func:`whiten`."""
    return Work(2 * norm.weight.numel(), margin)


def after_norm(norm: ChannelNorm, linear: Linear) -> Linear:
    """What ``linear`` makes of normalised pixels, as a map of those that :func:`whiten` returns."""
    gain = torch.diag(norm.weight.detach().double())
    return linear.after(Linear(gain - gain.mean(dim=1, keepdim=True), norm.bias.detach().double()))


def channel_groups(dim: int, heads: int) -> list[slice]:
    """Channels whose products are summed at once: whole heads, together at least 16 channels if there are as many."""
    side = dim // heads
    while side < 16 and side < dim:
        side *= 2
    return [slice(i, i + side) for i in range(0, dim, side)] if dim % side == 0 else [slice(0, dim)]


def summing(layer: SelfAttention | CrossAttention) -> Work:
    """The work of :meth:`Gram.add`."""
    groups = channel_groups(layer.project.out_channels, len(layer.temperature))
    return Work(sum((group.stop - group.start) ** 2 for group in groups))


class Gram:
    """Products of queries and keys, summed over a picture in double precision."""

    def __init__(self, layer: SelfAttention | CrossAttention) -> None:
        self.project = Linear.of(layer.project)
        self.temperature = layer.temperature.detach().double()
        dim = len(self.project.weight)
        self.groups = channel_groups(dim, len(self.temperature))
        self.products = self.temperature.new_zeros(dim, dim)
        self.squares = self.temperature.new_zeros(2, dim)

    def add(self, query: Tensor, key: Tensor) -> None:
        """Add some pixels, (1, C, H, W) each."""
        query, key = (x.permute(0, 2, 3, 1).flatten(0, 2) for x in (query, key))
        for channels in self.groups:
            self.products[channels, channels] += query[:, channels].T @ key[:, channels]
        self.squares += torch.stack([(x * x).sum(0) for x in (query, key)])

    def matrix(self) -> Linear:
        """What takes values to the attention's output: softmax(q̂ k̂ᵀ · temperature), then the projection."""
        norms = self.squares.sqrt().clamp_min(1e-12)
        similarity = self.products / torch.outer(*norms)
        side = len(similarity) // len(self.temperature)
        heads = torch.stack([similarity[i : i + side, i : i + side] for i in range(0, len(similarity), side)])
        return self.project.after(Linear(torch.block_diag(*(heads * self.temperature).softmax(dim=-1))))


class FoldedFeedForward:
    """x + GDFN(LN(x))."""

    def __init__(self, norm: ChannelNorm, layer: FeedForward) -> None:
        hidden = layer.project.in_channels
        expand = after_norm(norm, Linear.of(layer.expand))
        # The two halves apart: half the channels of a map are not contiguous, and slow.
        self.gate, self.value = expand.rows(0, hidden).single(), expand.rows(hidden).single()
        self.gate_mix, self.value_mix = Depthwise.of(layer.mix, 0, hidden), Depthwise.of(layer.mix, hidden)
        self.project = Linear.of(layer.project).single()
        self.work = [whitening(norm, 1), self.gate.work(1), self.value.work(1)]
        self.work += [self.gate_mix.work(), self.value_mix.work(), self.project.work()]

    def __call__(self, x: Tensor, outer: Region, inner: Region) -> Tensor:
        """X on ``outer``, 1 pixel around ``inner`` -> the result on ``inner``."""
        white = whiten(x)
        hidden = self.gate_mix(self.gate(white), outer, inner, "gelu")
        hidden.mul_(self.value_mix(self.value(white), outer, inner))
        return self.project(hidden).add_(inner.within(outer, x))


class FoldedQueriesKeysValues:
    """Of a self-attention on normalised pixels, with a 1×1 in between or none."""

    def __init__(self, norm: ChannelNorm, layer: SelfAttention, before: nn.Conv2d | None = None) -> None:
        dim = layer.project.out_channels
        qkv = Linear.of(layer.qkv)
        qkv = after_norm(norm, qkv if before is None else qkv.after(Linear.of(before)))
        self.query_key, self.query_key_mix = qkv.rows(0, 2 * dim).single(), Depthwise.of(layer.qkv_mix, 0, 2 * dim)
        self.value, self.value_mix = qkv.rows(2 * dim).single(), Depthwise.of(layer.qkv_mix, 2 * dim)

    def queries_keys(self, white: Tensor, outer: Region, inner: Region) -> tuple[Tensor, Tensor]:
        """Whitened pixels on ``outer``, 1 around ``inner`` -> queries and keys on ``inner``."""
        query, key = self.query_key_mix(self.query_key(white), outer, inner).chunk(2, dim=1)
        return query, key

    def values(self, white: Tensor, outer: Region, inner: Region) -> Tensor:
        """Whitened pixels on ``outer``, 1 around ``inner`` -> values on ``inner``."""
        return self.value_mix(self.value(white), outer, inner)

    def values_work(self, margin: int) -> list[Work]:
        """Of :meth:`values`, as far around a region as ``margin``."""
        return [self.value.work(margin + 1), self.value_mix.work(margin)]


class FoldedEncoderBlock:
    """An :class:`~moceir.network.blocks.EncoderBlock`."""

    #: How far around a region :meth:`update` reads.
    REACH = 2

    def __init__(self, block: EncoderBlock) -> None:
        self.attention = block.attention
        self.projections = FoldedQueriesKeysValues(block.norm1, block.attention)
        self.feed_forward = FoldedFeedForward(block.norm2, block.feed_forward)
        dim = block.attention.project.out_channels
        self.work = [whitening(block.norm1, 1), self.projections.query_key.work(1)]
        self.work += [self.projections.query_key_mix.work(), summing(block.attention)]
        #: Of :meth:`update` alone.
        self.update_work = [whitening(block.norm1, 2), *self.projections.values_work(1), Work(dim**2, 1)]
        self.update_work += self.feed_forward.work
        self.work += self.update_work

    def look(self, read: Read, region: Region, gram: Gram) -> None:
        """First pass: add a region's queries and keys."""
        outer = region.grow(1)
        gram.add(*self.projections.queries_keys(whiten(read(outer)), outer, region))

    def update(self, read: Read, region: Region, attend: Linear) -> Tensor:
        """Second pass: the block's result on a region."""
        middle = region.grow(1)
        outer = middle.grow(1)
        x = read(outer)
        y = attend(self.projections.values(whiten(x), outer, middle)).add_(middle.within(outer, x))
        return self.feed_forward(y, middle, region)


class SpectralMix:
    """What a :class:`~moceir.network.experts.SpectralMixer` does with queries, keys and values."""

    def __init__(self, mixer: SpectralMixer) -> None:
        self.window = mixer.window
        self.gain, self.shift = (p.detach()[:, None, None] for p in (mixer.norm.weight, mixer.norm.bias))

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(1, r, H, W) each, on a region that begins where a window does."""
        height, width = value.shape[-2:]
        spectrum = self._spectrum(query).mul_(self._spectrum(key))
        # One axis after the other: both at once copy in between.
        mixed = torch.fft.irfft(torch.fft.ifft(spectrum, dim=2), n=self.window, dim=4)
        # Channels come out of the transforms outermost, which is where normalising over them is fast.
        mixed -= mixed.mean(dim=5, keepdim=True)
        mixed *= mixed.square().mean(dim=5, keepdim=True).add_(ChannelNorm.EPSILON).rsqrt_()
        mixed = rearrange(mixed, "b m y n x c -> b c (m y) (n x)")[..., :height, :width]
        return torch.addcmul(self.shift, mixed, self.gain).mul_(value)

    def _spectrum(self, x: Tensor) -> Tensor:
        x = rearrange(pad_to_windows(x, self.window), "b c (m y) (n x) -> b m y n x c", y=self.window, x=self.window)
        return torch.fft.fft(torch.fft.rfft(x, dim=4), dim=2)


class FoldedExpert:
    """An expert and what follows up to the cross-attention's queries: W_q W_p W3 (Mix(W1 x) ⊙ SiLU(W2 s)).

    Args:
        expert: the layer.
        routed: whitened pixels -> the expert's input.
        to_query: the expert's output -> queries.
    """

    def __init__(self, expert: Expert, routed: Linear, to_query: Linear) -> None:
        self.mixer = mixer = expert.mixer
        dim, rank = len(routed.weight), expert.reduce.out_channels
        self.shift = None
        self.mix: Callable[[Tensor, Tensor, Tensor], Tensor] = mixer.mix
        if isinstance(mixer, SpectralMixer):
            self.mix = SpectralMix(mixer)
            if rank == 1:  # a single channel minus its mean is nothing, whatever the windows gave
                self.shift = mixer.norm.bias.detach()[:, None, None]
        reduce = Linear.of(expert.reduce).after(routed)
        query, key_value = Linear.of(mixer.query), Linear.of(mixer.key_value)
        key_value_mix = Depthwise.of(mixer.key_value_mix, rank if self.shift is not None else 0)
        if self.shift is not None:
            key_value = key_value.rows(rank)
        # Through W1 or straight from the pixels, whichever takes fewer multiply-adds.
        self.reduce = reduce.single() if dim + 3 * rank < 3 * dim else None
        if self.reduce is None:
            query, key_value = query.after(reduce), key_value.after(reduce)
        self.query, self.query_mix = query.single(), Depthwise.of(mixer.query_mix)
        self.key_value, self.key_value_mix = key_value.single(), key_value_mix
        self.project = Linear.of(mixer.project).single()
        self.modulate = Linear.of(expert.modulate)
        self.expand = to_query.after(Linear.of(expert.expand)).single()
        self.work = [] if self.reduce is None else [self.reduce.work(3)]
        self.work += [] if self.shift is not None else [self.query.work(1), self.query_mix.work()]
        self.work += [self.key_value.work(3), self.key_value_mix.work()]
        self.work += [layer.work() for layer in (self.project, self.modulate, self.expand)]

    def __call__(self, white: Tensor, outer: Region, inner: Region, values: Tensor, modulate: Linear) -> Tensor:
        """The expert's part of the queries on a region.

        Args:
            white: whitened pixels on ``outer``, 3 around ``inner``.
            values: the shared expert's values on ``inner``.
            modulate: those values -> W2 s.
        """
        reduced = white if self.reduce is None else self.reduce(white)
        key_value = self.key_value_mix(self.key_value(reduced), outer, inner)
        if self.shift is not None:
            mixed = key_value * self.shift
        else:
            near = inner.grow(1)
            query = self.query_mix(self.query(near.within(outer, reduced)), near, inner)
            mixed = self.mix(query, *key_value.chunk(2, dim=1))
        mixed = self.project(mixed.contiguous(memory_format=torch.channels_last))
        return self.expand(mixed.mul_(modulate(values, "silu")))


class Route(NamedTuple):
    """A decoder block's experts and matrices for one picture."""

    experts: list[int]
    """Those the picture takes."""
    gates: list[float]
    """Of each of them."""
    modulate: list[Linear]
    """Of each of them: the shared expert's values -> W2 s."""
    key: Linear
    """The shared expert's values -> the cross-attention's keys, before their depth-wise convolution."""
    value: Linear
    """The same for the cross-attention's values."""


class FoldedDecoderBlock:
    """A :class:`~moceir.network.blocks.DecoderBlock`."""

    #: How far around a region the cross-attention's queries and keys depend on what :meth:`mix` returns.
    REACH = 3

    def __init__(self, block: DecoderBlock) -> None:
        cross = block.cross_attention
        dim = cross.project.out_channels
        self.shared, self.cross_attention, self.router = block.shared, cross, block.moce.router
        self.projections = FoldedQueriesKeysValues(block.norm1, block.shared, block.to_shared)
        self.routed = after_norm(block.norm1, Linear.of(block.to_routed))
        to_query = Linear.of(cross.query).after(Linear.of(block.moce.project))
        self.query, self.query_mix = to_query.after(self.routed).single(), Depthwise.of(cross.query_mix)
        self.experts = [FoldedExpert(cast(Expert, expert), self.routed, to_query) for expert in block.moce.experts]
        self.key_value = Linear.of(cross.key_value)
        self.key_mix = Depthwise.of(cross.key_value_mix, 0, dim)
        self.value_mix = Depthwise.of(cross.key_value_mix, dim)
        self.feed_forward = FoldedFeedForward(block.norm2, block.feed_forward)
        square = dim**2
        self.work = [whitening(block.norm1, 1), self.projections.query_key.work(1)]
        self.work += [self.projections.query_key_mix.work(), summing(block.shared)]
        self.work += [whitening(block.norm1, 3), *self.projections.values_work(0), self.query.work()]
        self.work += [self.query_mix.work(), Work(square, 3), self.key_mix.work(), summing(cross)]
        self.work += [Work(square, 4), self.value_mix.work(1), Work(square, 1), *self.feed_forward.work]
        #: Of :meth:`values`, where :meth:`update` reads them.
        self.values_work = [whitening(block.norm1, 5), *self.projections.values_work(4)]

    def look(self, read: Read, region: Region, gram: Gram) -> Tensor:
        """First pass: add a region's queries and keys of the shared expert; (C,), the sum of its whitened pixels."""
        outer = region.grow(1)
        white = whiten(read(outer))
        gram.add(*self.projections.queries_keys(white, outer, region))
        return region.within(outer, white).sum(dim=(0, 2, 3)).double()

    def routed_mean(self, white: Tensor) -> Tensor:
        """(C,), mean of the whitened pixels -> (1, C, 1, 1), mean of the experts' input, which the router sees."""
        return self.routed(white[None, :, None, None]).float()

    def route(self, attend: Linear, experts: Tensor, gates: Tensor) -> Route:
        """What follows from the shared expert's matrix and the experts taken, (k,), of gates (n,)."""
        taken = experts.tolist()
        key_value = self.key_value.after(attend).single()
        dim = len(attend.weight)
        return Route(
            experts=taken,
            gates=[float(gates[expert]) for expert in taken],
            modulate=[self.experts[expert].modulate.after(attend).single() for expert in taken],
            key=key_value.rows(0, dim),
            value=key_value.rows(dim),
        )

    def mix(self, read: Read, region: Region, route: Route) -> tuple[Tensor, Tensor]:
        """Second pass: the cross-attention's queries, before their depth-wise convolution, and the shared values."""
        near, outer = region.grow(1), region.grow(3)
        white = whiten(read(outer))
        values = self.projections.values(near.within(outer, white), near, region)
        query = self.query(region.within(outer, white)).mul_(sum(route.gates))
        for expert, gate, modulate in zip(route.experts, route.gates, route.modulate, strict=True):
            query.add_(self.experts[expert](white, outer, region, values, modulate), alpha=gate)
        return query, values

    def look_across(self, query: Read, values: Read, region: Region, route: Route, gram: Gram) -> None:
        """After it: add a region's queries and keys of the cross-attention, from what :meth:`mix` gave."""
        near, wide = region.grow(1), region.grow(self.REACH)
        gram.add(
            self.query_mix(query(near), near, region),
            self.key_mix(route.key(values(wide)), wide, region),
        )

    def values(self, read: Read, region: Region) -> Tensor:
        """The shared expert's values on a region, once more."""
        outer = region.grow(1)
        return self.projections.values(whiten(read(outer)), outer, region)

    def update(self, read: Read, values: Read, region: Region, route: Route, attend: Linear) -> Tensor:
        """Third pass: the block's result on a region."""
        middle, wide = region.grow(1), region.grow(1 + self.REACH)
        y = attend(self.value_mix(route.value(values(wide)), wide, middle)).add_(read(middle))
        return self.feed_forward(y, middle, region)
