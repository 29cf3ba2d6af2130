"""The layers of which every block is made: channel normalisation, convolutions, feed-forward, resampling.

All maps are (B, C, H, W). They are fastest in ``torch.channels_last`` memory, which the networks see to; every layer
here keeps whichever order it is given.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input, conv2d_weight

from moceir.networks.strips import NO_HALO, Halo

#: For maps of at most this many numbers, PyTorch's own convolutions are faster than oneDNN's.
SMALL = 20480


def channels_last(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return the same map in the memory order that is fastest here."""
    return x.contiguous(memory_format=torch.channels_last)


def autocasting() -> bool:
    """Return whether CPU autocast is on."""
    return torch.is_autocast_enabled("cpu")


def inferring_on_cpu(x: Tensor) -> bool:
    """Return whether ``x`` is a float32 map on a CPU, without gradients, and neither traced nor compiled."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not autocasting()
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
    )


class Convolution(nn.Conv2d):
    """A convolution that always takes oneDNN's kernels for inference on a CPU.

    PyTorch leaves them for slower ones of its own where it runs on one thread, and has no call for a convolution with
    an activation in one pass over memory; torch.compile emits the same operation.
    """

    @property
    def reach(self) -> int:
        """The rows above and below a strip that it reads."""
        return int(self.padding[0])

    def forward(
        self, x: Float[Tensor, "b c h w"], halo: Halo = NO_HALO, activation: str = "none"
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """(B, C, H, W) -> (B, C', H', W') with ``halo.after(reach)``, then ``"none"``, ``"gelu"`` or ``"silu"``."""
        return spread(x, self.weight, self.bias, halo, self.reach, self.stride, self.groups, activation)


class OfMean(Convolution):
    """A 1×1 on means: (B, C, 1, 1) for the whole map; (B, C, rows, columns) for places ``spacing`` pixels apart."""

    def __init__(self, in_dim: int, out_dim: int, spacing: int | None = None) -> None:
        super().__init__(in_dim, out_dim, kernel_size=1)
        self.spacing = spacing

    def places(self, height: int, width: int) -> int:
        """Return the number of means of a height×width map."""
        return 1 if self.spacing is None else -(-height // self.spacing) * -(-width // self.spacing)


def convolve(
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "c2 c_of_group k l"],
    bias: Float[Tensor, " c2"] | None = None,
    stride: Any = (1, 1),
    padding: Any = (0, 0),
    groups: int = 1,
    activation: str = "none",
) -> Float[Tensor, "b c2 h2 w2"]:
    """Compute what :class:`Convolution` does, with any weights."""
    if inferring_on_cpu(x) and x.numel() > SMALL:
        name = {"silu": "swish"}.get(activation, activation)
        exact = "none" if activation == "gelu" else ""  # GELU without the approximation by tanh
        return cast(
            Tensor,
            torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, stride, [1, 1], groups, name, [], exact),
        )
    wide = groups == len(weight) and weight.shape[1:] == (1, 7, 7)
    if wide and x.requires_grad and x.device.type == "cpu" and not autocasting() and not torch.jit.is_tracing():
        y = cast(Tensor, _WideDepthwise.apply(x, weight, bias))  # type: ignore[no-untyped-call]  # torch's apply has no types
    else:
        y = F.conv2d(x, weight, bias, stride, padding, groups=groups)
    return {"none": lambda z: z, "gelu": F.gelu, "silu": F.silu}[activation](y)


def join(
    operation: Literal["add", "mul"],
    other: Float[Tensor, "b c2 h w"],
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "c2 c 1 1"],
    bias: Float[Tensor, " c2"] | None,
    *,
    in_place: bool = False,
) -> Float[Tensor, "b c2 h w"]:
    """Return another map plus, or times, a 1×1 convolution of ``x``; on CPUs in one pass over memory.

    ``in_place`` allows writing the result into ``other``, which costs no pass at all.
    """
    if inferring_on_cpu(x) and x.numel() > SMALL:
        rest: Any = (weight, bias, (0, 0), (1, 1), (1, 1), 1, operation, 1.0, None, [], None)
        if in_place:
            return cast(Tensor, torch.ops.mkldnn._convolution_pointwise_.binary(other, x, *rest))
        return cast(Tensor, torch.ops.mkldnn._convolution_pointwise.binary(x, other, *rest))
    y = convolve(x, weight, bias)
    return plus(y, other) if operation == "add" else times(y, other)


def spread(
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "c2 c_of_group k l"],
    bias: Float[Tensor, " c2"] | None,
    halo: Halo,
    reach: int,
    stride: Any = (1, 1),
    groups: int = 1,
    activation: str = "none",
) -> Float[Tensor, "b c2 h2 w2"]:
    """Convolve a strip. The halo supplies the rows around it, and zeros stand beyond the end of the map.

    Args:
        x: (B, C, H, W) with ``halo``.
        weight, bias, stride, groups, activation: as of :func:`convolve`.
        halo: of ``x``.
        reach: rows that the kernel looks up and down, and columns to both sides.

    Returns:
        The result with ``halo.after(reach)``.
    """
    above, below = min(halo.above, reach), min(halo.below, reach)
    zeros = reach - min(above, below)  # on both sides; too many rows are cheaper than a padded copy
    y = convolve(x, weight, bias, stride, (zeros, reach), groups, activation)
    return y[:, :, above - reach + zeros : y.shape[2] - (below - reach + zeros)]


def some_channels(
    x: Float[Tensor, "b c h w"],
    first: Convolution,
    second: Convolution,
    start: int,
    stop: int,
    halo: Halo,
    activation: str = "none",
) -> Float[Tensor, "b {stop-start} rows w"]:
    """Channels ``start`` to ``stop`` of a 1×1, then of the depth-wise convolution of its result, and an activation."""

    def some(layer: Convolution) -> tuple[Tensor, Tensor | None]:
        return layer.weight[start:stop], None if layer.bias is None else layer.bias[start:stop]

    weight, bias = some(second)
    hidden = convolve(x, *some(first))
    return spread(hidden, weight, bias, halo, second.reach, groups=stop - start, activation=activation)


def times(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply two maps, in place when no gradient needs ``x``."""
    return x * factor if torch.is_grad_enabled() else x.mul_(factor)


def plus(x: Tensor, term: Tensor) -> Tensor:
    """Add two maps, in place when no gradient needs ``x``."""
    return x + term if torch.is_grad_enabled() else x.add_(term)


def pointwise(in_dim: int, out_dim: int, *, bias: bool) -> Convolution:
    """Build a 1×1 convolution, the same linear map at every pixel."""
    return Convolution(in_dim, out_dim, kernel_size=1, bias=bias)


def depthwise(dim: int, kernel_size: int, *, bias: bool) -> Convolution:
    """Build a k×k convolution of each channel by itself, zero-padded to keep H and W."""
    return Convolution(dim, dim, kernel_size=kernel_size, padding=kernel_size // 2, groups=dim, bias=bias)


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
    """Layer normalisation over the channels of each pixel (biased variance, eps 1e-5, weight and bias).

    Attributes:
        folded: only divide by the standard deviation; :func:`fold_norm` has given the rest to the next convolution.
    """

    folded = False

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise the channels of each pixel."""
        # In channels_last memory both permutations are views, and layer_norm runs on contiguous rows.
        pixels = x.permute(0, 2, 3, 1)
        if not inferring_on_cpu(x):
            if not self.folded:
                return super().forward(pixels).permute(0, 3, 1, 2)
            variance = pixels.var(dim=-1, correction=0, keepdim=True)
            return (pixels * (variance + self.eps).rsqrt()).permute(0, 3, 1, 2)
        # Sums over few channels as matrix products, because torch's reductions are slow.
        channels = x.shape[1]
        average = x.new_full((1, channels), 1 / channels)
        mean = F.linear(pixels, average)
        if channels < 16:
            power = F.linear(pixels * pixels, average)
        else:
            power = torch.linalg.vector_norm(pixels, dim=-1, keepdim=True).square_().div_(channels)
        scale = (power - mean * mean).clamp_min_(0).add_(self.eps).rsqrt_()
        if self.folded:
            return (pixels * scale).permute(0, 3, 1, 2)
        return torch.addcmul(self.bias, (pixels - mean).mul_(scale), self.weight).permute(0, 3, 1, 2)


class FeedForward(nn.Module):
    """Gated depth-wise feed-forward network (GDFN; Restormer, arXiv 2111.09881, eq. 3), expansion 2."""

    def __init__(self, *, dim: int, bias: bool) -> None:
        super().__init__()
        hidden = 2 * dim
        self.expand = pointwise(dim, 2 * hidden, bias=bias)
        self.mix = depthwise(2 * hidden, 3, bias=bias)
        self.project = pointwise(hidden, dim, bias=bias)

    def forward(
        self, x: Float[Tensor, "b c h w"], halo: Halo, total: Float[Tensor, "b c rows w"]
    ) -> Float[Tensor, "b c rows w"]:
        """Add the result on ``x``, which has a halo of one row, to ``total``, in place when no gradient needs it."""
        # The two halves apart: half the channels of a map are not contiguous, and slow.
        hidden = self.project.in_channels
        gate = some_channels(x, self.expand, self.mix, 0, hidden, halo, "gelu")
        gated = times(gate, some_channels(x, self.expand, self.mix, hidden, 2 * hidden, halo))
        return join("add", total, gated, self.project.weight, self.project.bias, in_place=True)


class Downsample(nn.Sequential):
    """(B, C, H, W) -> (B, 2C, H/2, W/2); H and W even."""

    reach = 1

    def __init__(self, *, dim: int) -> None:
        super().__init__(Convolution(dim, dim // 2, kernel_size=3, padding=1, bias=False), nn.PixelUnshuffle(2))

    def forward(self, x: Float[Tensor, "b c h w"], halo: Halo = NO_HALO) -> Float[Tensor, "b 2*c rows w//2"]:
        """Map ``x`` with a halo of one row to the result without."""
        return self[1](self[0](x, halo))


class Upsample(nn.Sequential):
    """(B, C, H, W) -> (B, C/2, 2H, 2W)."""

    reach = 1

    def __init__(self, *, dim: int) -> None:
        super().__init__(Convolution(dim, 2 * dim, kernel_size=3, padding=1, bias=False), nn.PixelShuffle(2))

    def forward(self, x: Float[Tensor, "b c h w"], halo: Halo = NO_HALO) -> Float[Tensor, "b c//2 rows 2*w"]:
        """Map ``x`` with a halo of one row to the result without."""
        return self[1](self[0](x, halo))


def composed(second: nn.Module, first: nn.Module) -> Convolution:
    """Merge two 1×1 convolutions into one, in double precision, so that the weights are rounded once."""
    outer, inner = (_affine(layer) for layer in (second, first))
    bias = None if inner[1] is None else outer[0] @ inner[1]
    if outer[1] is not None:
        bias = outer[1] if bias is None else outer[1] + bias
    return _pointwise_of(outer[0] @ inner[0], bias, like=cast(Tensor, second.weight))


def fold_norm(norm: ChannelNorm, layer: nn.Module) -> Convolution:
    """A 1×1 that also does the work of the norm before it, except dividing: gain, shift, and subtraction of the mean.

    The norm must become ``folded`` once all that follow it have taken their share.
    """
    gain = torch.diag(norm.weight.detach().double())
    centred = _pointwise_of(gain - gain.mean(dim=1, keepdim=True), norm.bias.detach(), like=gain)
    return composed(layer, centred)


def _affine(layer: nn.Module) -> tuple[Float[Tensor, "out in"], Float[Tensor, " out"] | None]:
    """Return the weight and the bias in double precision."""
    weight, bias = cast(Tensor, layer.weight).detach(), cast("Tensor | None", layer.bias)
    return weight.double().flatten(1), None if bias is None else bias.detach().double()


def _pointwise_of(weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"] | None, *, like: Tensor) -> Convolution:
    layer = pointwise(weight.shape[1], weight.shape[0], bias=bias is not None).to(like).requires_grad_(False)
    layer.weight.copy_(weight[:, :, None, None])
    if bias is not None and layer.bias is not None:
        layer.bias.copy_(bias)
    return layer
