"""Translates the torch functions that the networks use to ONNX operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moceir.export.recorder import Recorder, Size, sample

Names = str | tuple[str, ...] | list[Any]
Write = Callable[..., Names]

OPERATIONS: dict[str, Write] = {}
"""Name of a torch function -> its translation, which takes the recorder, the function's result in the first sample, and
its arguments, and returns the name of the result (a list of names for several results, a pair for a complex one)."""


def writes(*names: str) -> Callable[[Write], Write]:
    """Register the decorated function as the translation of these torch functions."""

    def add(write: Write) -> Write:
        OPERATIONS.update(dict.fromkeys(names, write))
        return write

    return add


def _x(recorder: Recorder, x: Any) -> str:
    return recorder.name(x, x.dtype)


def _axes(dim: Any, x: Tensor) -> list[int]:
    dims = [dim] if isinstance(dim, int) else list(range(x.ndim)) if dim is None else list(dim)
    return [one % x.ndim for one in dims]


# Arithmetic


def _binary(operator: str, *, swapped: bool = False) -> Write:
    def write(recorder: Recorder, result: Tensor, first: Any, second: Any) -> Names:
        if result.is_complex():
            return _complex_product(recorder, first, second)
        dtype = torch.promote_types(_dtype(first, result), _dtype(second, result))
        names = [recorder.name(one, dtype) for one in (first, second)]
        return recorder.emit(operator, *(names[::-1] if swapped else names))

    return write


def _dtype(x: Any, result: Tensor) -> torch.dtype:
    if isinstance(x, Tensor):
        return x.dtype
    return torch.bool if result.dtype == torch.bool else result.dtype


for _name, _operator in {
    "add": "Add",
    "mul": "Mul",
    "sub": "Sub",
    "div": "Div",
    "truediv": "Div",
    "maximum": "Max",
    "matmul": "MatMul",
}.items():
    OPERATIONS[_name] = OPERATIONS[f"__{_name}__".strip("_")] = _binary(_operator)
    OPERATIONS[f"r{_name}"] = _binary(_operator, swapped=True)


def _comparison(operator: str) -> Write:
    def write(recorder: Recorder, result: Tensor, first: Any, second: Any) -> Names:
        dtype = first.dtype if isinstance(first, Tensor) else second.dtype
        return recorder.emit(operator, recorder.name(first, dtype), recorder.name(second, dtype))

    return write


OPERATIONS.update(gt=_comparison("Greater"), lt=_comparison("Less"), eq=_comparison("Equal"))


def _unary(*operators: str) -> Write:
    def write(recorder: Recorder, result: Tensor, x: Any) -> Names:
        name = _x(recorder, x)
        for operator in operators:
            name = recorder.emit(operator, name)
        return name

    return write


OPERATIONS.update(abs=_unary("Abs"), log=_unary("Log"), neg=_unary("Neg"), detach=_unary("Identity"))
OPERATIONS.update(sqrt=_unary("Sqrt"), rsqrt=_unary("Sqrt", "Reciprocal"))


@writes("clamp_min")
def _clamp_min(recorder: Recorder, result: Tensor, x: Any, minimum: float) -> Names:
    return recorder.emit("Max", _x(recorder, x), recorder.name(minimum, x.dtype))


@writes("gelu")
def _gelu(recorder: Recorder, result: Tensor, x: Any, approximate: str = "none") -> Names:
    if approximate != "none":
        raise ValueError("moceir.export writes the exact GELU only")
    name = _x(recorder, x)
    erf = recorder.emit("Erf", recorder.emit("Div", name, recorder.name(math.sqrt(2), x.dtype)))
    twice = recorder.emit("Mul", name, recorder.emit("Add", erf, recorder.name(1, x.dtype)))
    return recorder.emit("Mul", twice, recorder.name(0.5, x.dtype))


@writes("silu")
def _silu(recorder: Recorder, result: Tensor, x: Any, inplace: bool = False) -> Names:
    return recorder.emit("Mul", _x(recorder, x), recorder.emit("Sigmoid", _x(recorder, x)))


@writes("softmax")
def _softmax(recorder: Recorder, result: Tensor, x: Any, dim: int, **ignored: Any) -> Names:
    return recorder.emit("Softmax", _x(recorder, x), axis=dim)


def _reduction(operator: str) -> Write:
    def write(recorder: Recorder, result: Tensor, x: Any, dim: Any = None, keepdim: bool = False) -> Names:
        axes = recorder.integers(_axes(dim, x))
        return recorder.emit(operator, _x(recorder, x), axes, keepdims=int(keepdim))

    return write


OPERATIONS.update(sum=_reduction("ReduceSum"), mean=_reduction("ReduceMean"))


@writes("var")
def _var(recorder: Recorder, result: Tensor, x: Any, dim: Any, *, correction: int, keepdim: bool = False) -> Names:
    if correction:
        raise ValueError("moceir.export writes the biased variance only (correction=0)")
    axes = recorder.integers(_axes(dim, x))
    centred = recorder.emit("Sub", _x(recorder, x), recorder.emit("ReduceMean", _x(recorder, x), axes, keepdims=1))
    return recorder.emit("ReduceMean", recorder.emit("Mul", centred, centred), axes, keepdims=int(keepdim))


# Layers


@writes("conv2d")
def _conv2d(
    recorder: Recorder,
    result: Tensor,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Names:
    stride, padding, dilation = ((n, n) if isinstance(n, int) else tuple(n) for n in (stride, padding, dilation))
    inputs = [recorder.name(one, x.dtype) for one in (x, weight, bias) if one is not None]
    about = {"strides": list(stride), "dilations": list(dilation), "group": groups}
    return recorder.emit("Conv", *inputs, pads=[*padding, *padding], kernel_shape=list(weight.shape[2:]), **about)


@writes("linear")
def _linear(recorder: Recorder, result: Tensor, x: Any, weight: Any, bias: Any = None) -> Names:
    product = recorder.emit("MatMul", _x(recorder, x), recorder.name(weight.mT, x.dtype))
    return product if bias is None else recorder.emit("Add", product, recorder.name(bias, x.dtype))


@writes("layer_norm")
def _layer_norm(
    recorder: Recorder, result: Tensor, x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Names:
    inputs = [recorder.name(one, x.dtype) for one in (x, weight, bias) if one is not None]
    return recorder.emit("LayerNormalization", *inputs, axis=-len(shape), epsilon=eps)


@writes("scaled_dot_product_attention")
def _attention(
    recorder: Recorder, result: Tensor, query: Any, key: Any, value: Any, attn_mask: Any = None, **ignored: Any
) -> Names:
    axes = [*range(key.ndim - 2), key.ndim - 1, key.ndim - 2]
    keys = recorder.emit("Transpose", _x(recorder, key), perm=axes)
    scale = recorder.name(query.shape[-1] ** -0.5, query.dtype)
    weights = recorder.emit("MatMul", recorder.emit("Mul", _x(recorder, query), scale), keys)
    if attn_mask is not None:
        mask = recorder.name(attn_mask, torch.bool)
        weights = recorder.emit("Where", mask, weights, recorder.name(-torch.inf, query.dtype))
    return recorder.emit("MatMul", recorder.emit("Softmax", weights, axis=-1), _x(recorder, value))


# Shapes


@writes("permute")
def _permute(recorder: Recorder, result: Tensor, x: Any, *axes: Any) -> Names:
    order = axes[0] if isinstance(axes[0], Sequence) else axes
    return recorder.emit("Transpose", _x(recorder, x), perm=_axes(order, x))


@writes("mT")
def _transposed(recorder: Recorder, result: Tensor, x: Any) -> Names:
    return recorder.emit("Transpose", _x(recorder, x), perm=[*range(x.ndim - 2), x.ndim - 1, x.ndim - 2])


@writes("reshape", "view")
def _reshape(recorder: Recorder, result: Tensor, x: Any, *shape: Any) -> Names:
    lengths = list(shape[0] if isinstance(shape[0], Sequence) else shape)
    unknown = [i for i, length in enumerate(lengths) if isinstance(length, Size)]
    if len(unknown) == 1 and -1 not in [int(length) for length in lengths]:
        lengths[unknown[0]] = -1
    return recorder.emit("Reshape", _x(recorder, x), recorder.integers(lengths))


@writes("flatten")
def _flatten(recorder: Recorder, result: Tensor, x: Any, start_dim: int = 0, end_dim: int = -1) -> Names:
    start, end = _axes((start_dim, end_dim), x)
    return recorder.emit("Reshape", _x(recorder, x), recorder.integers([*x.shape[:start], -1, *x.shape[end + 1 :]]))


@writes("expand")
def _expand(recorder: Recorder, result: Tensor, x: Any, *shape: Any) -> Names:
    lengths = list(shape[0] if isinstance(shape[0], Sequence) else shape)
    return recorder.emit("Expand", _x(recorder, x), recorder.integers([1 if n == -1 else n for n in lengths]))


@writes("contiguous", "clone", "to", "double", "float", "type_as")
def _copy(recorder: Recorder, result: Tensor, x: Any, *ignored: Any, **also: Any) -> Names:
    return recorder.name(x, result.dtype)


@writes("getitem")
def _getitem(recorder: Recorder, result: Tensor, x: Any, index: Any) -> Names:
    items = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(one, Tensor) for one in items):
        (chosen,) = items  # row indices
        return recorder.emit("Gather", _x(recorder, x), recorder.name(chosen, torch.int64), axis=0)
    if Ellipsis in [one for one in items if not isinstance(one, (slice, Size))]:
        at = next(i for i, one in enumerate(items) if one is Ellipsis)
        missing = x.ndim - sum(one is not None and one is not Ellipsis for one in items)
        items[at : at + 1] = [slice(None)] * missing
    dropped: list[int] = []
    new: list[int] = []
    name, axis = _x(recorder, x), 0
    for one in items:
        if one is None:
            new.append(axis - len(dropped) + len(new))
            continue
        if isinstance(one, slice):
            start, stop = 0 if one.start is None else one.start, one.stop
            lengths = [of.shape[axis] for of in x.samples]
            if any(range(length)[sample(one, i)] != range(length) for i, length in enumerate(lengths)):
                ends = recorder.integers([np.iinfo(np.int64).max if stop is None else stop])
                steps = recorder.integers([1 if one.step is None else one.step])
                name = recorder.emit("Slice", name, recorder.integers([start]), ends, recorder.integers([axis]), steps)
        else:
            stop = one + 1 if one != -1 else np.iinfo(np.int64).max
            bounds = (recorder.integers([n]) for n in (one, stop, axis))
            name = recorder.emit("Slice", name, *bounds)
            dropped.append(axis)
        axis += 1
    if dropped:
        name = recorder.emit("Squeeze", name, recorder.integers(dropped))
    return recorder.emit("Unsqueeze", name, recorder.integers(new)) if new else name


@writes("unsqueeze")
def _unsqueeze(recorder: Recorder, result: Tensor, x: Any, dim: int) -> Names:
    return recorder.emit("Unsqueeze", _x(recorder, x), recorder.integers([dim % (x.ndim + 1)]))


@writes("unbind")
def _unbind(recorder: Recorder, result: Sequence[Tensor], x: Any, dim: int = 0) -> Names:
    return [
        recorder.emit("Gather", _x(recorder, x), recorder.name(i, torch.int64), axis=dim) for i in range(len(result))
    ]


@writes("chunk", "split")
def _split(recorder: Recorder, result: Sequence[Tensor], x: Any, count: Any, dim: int = 0) -> Names:
    lengths = recorder.integers([part.shape[dim] for part in result])
    return recorder.graph.emit("Split", [_x(recorder, x), lengths], len(result), axis=dim)


@writes("cat")
def _cat(recorder: Recorder, result: Tensor, tensors: Sequence[Any], dim: int = 0) -> Names:
    return recorder.emit("Concat", *(recorder.name(one, result.dtype) for one in tensors), axis=dim)


@writes("block_diag")
def _block_diag(recorder: Recorder, result: Tensor, *blocks: Any) -> Names:
    rows, before = [], 0
    for block in blocks:
        after = result.shape[1] - before - block.shape[1]
        pads = recorder.integers([0, before, 0, after])
        rows.append(recorder.emit("Pad", _x(recorder, block), pads))
        before += block.shape[1]
    return recorder.emit("Concat", *rows, axis=0)


@writes("pad")
def _pad(recorder: Recorder, result: Tensor, x: Any, pad: Any, mode: str = "constant", value: Any = None) -> Names:
    if all(one == 0 for one in pad if not isinstance(one, Size)) and not any(isinstance(one, Size) for one in pad):
        return _x(recorder, x)
    axes = [x.ndim - 1 - i for i in range(len(pad) // 2)]
    pads = recorder.integers([*pad[::2], *pad[1::2]])
    inputs = [_x(recorder, x), pads, recorder.name(value or 0, x.dtype), recorder.integers(axes)]
    return recorder.emit("Pad", *inputs, mode={"replicate": "edge"}.get(mode, mode))


@writes("avg_pool2d")
def _avg_pool2d(
    recorder: Recorder,
    result: Tensor,
    x: Any,
    kernel: Any,
    stride: Any = None,
    padding: Any = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Names:
    about = {"ceil_mode": int(ceil_mode), "count_include_pad": int(count_include_pad), "pads": [*padding, *padding]}
    return recorder.emit("AveragePool", _x(recorder, x), kernel_shape=kernel, strides=stride or kernel, **about)


@writes("interpolate")
def _interpolate(
    recorder: Recorder, result: Tensor, x: Any, *, scale_factor: Any, mode: str, align_corners: Any, **ignored: Any
) -> Names:
    if mode != "bilinear" or align_corners:
        raise ValueError("moceir.export writes bilinear interpolation of pixels' centres only")
    scales = recorder.name(torch.tensor([1, 1, *scale_factor]), torch.float32)
    return recorder.emit("Resize", _x(recorder, x), "", scales, mode="linear")


@writes("pixel_shuffle")
def _pixel_shuffle(recorder: Recorder, result: Tensor, x: Any, factor: int) -> Names:
    return recorder.emit("DepthToSpace", _x(recorder, x), blocksize=factor, mode="CRD")


@writes("pixel_unshuffle")
def _pixel_unshuffle(recorder: Recorder, result: Tensor, x: Any, factor: int) -> Names:
    # In ONNX, the position within a block is the outer index of a channel; in torch, the channel is.
    order = torch.arange(result.shape[1]).view(factor * factor, -1).T.flatten()
    blocks = recorder.emit("SpaceToDepth", _x(recorder, x), blocksize=factor)
    return recorder.emit("Gather", blocks, recorder.name(order, torch.int64), axis=1)


@writes("as_tensor")
def _as_tensor(recorder: Recorder, result: Tensor, value: Any, **ignored: Any) -> Names:
    return recorder.name(value, result.dtype)


@writes("ones")
def _ones(recorder: Recorder, result: Tensor, *shape: Any, **ignored: Any) -> Names:
    return recorder.emit("Expand", recorder.name(1, result.dtype), recorder.integers(shape))


@writes("zeros_like")
def _zeros_like(recorder: Recorder, result: Tensor, x: Any, **ignored: Any) -> Names:
    return recorder.emit("Expand", recorder.name(0, result.dtype), recorder.emit("Shape", _x(recorder, x)))


@writes("repeat")
def _repeat(recorder: Recorder, result: Tensor, x: Any, *times: int) -> Names:
    return recorder.emit("Tile", _x(recorder, x), recorder.integers(times))


# Choices


@writes("topk")
def _topk(recorder: Recorder, result: Any, x: Any, k: int, dim: int = -1) -> Names:
    return recorder.graph.emit("TopK", [_x(recorder, x), recorder.integers([k])], 2, axis=dim)


@writes("sort")
def _sort(recorder: Recorder, result: Any, x: Any, dim: int = -1) -> Names:
    return recorder.graph.emit("TopK", [_x(recorder, x), recorder.integers([x.shape[dim]])], 2, axis=dim, largest=0)


@writes("argmax")
def _argmax(recorder: Recorder, result: Tensor, x: Any, dim: int, keepdim: bool = False) -> Names:
    return recorder.emit("ArgMax", _x(recorder, x), axis=dim, keepdims=int(keepdim))


@writes("masked_fill")
def _masked_fill(recorder: Recorder, result: Tensor, x: Any, mask: Any, value: float) -> Names:
    return recorder.emit("Where", recorder.name(mask, torch.bool), recorder.name(value, x.dtype), _x(recorder, x))


@writes("gather")
def _gather(recorder: Recorder, result: Tensor, x: Any, dim: int, index: Any) -> Names:
    return recorder.emit("GatherElements", _x(recorder, x), recorder.name(index, torch.int64), axis=dim)


@writes("scatter")
def _scatter(recorder: Recorder, result: Tensor, x: Any, dim: int, index: Any, value: Any) -> Names:
    indices = recorder.name(index, torch.int64)
    updates = recorder.emit("Expand", recorder.name(value, x.dtype), recorder.emit("Shape", indices))
    return recorder.emit("ScatterElements", _x(recorder, x), indices, updates, axis=dim)


# Fourier transforms are matrix products, because not every runtime supports transforms, and windows are small. Complex
# values are pairs of tensors, in which the transformed axes come last.


@writes("fft_rfft2")
def _rfft2(recorder: Recorder, result: Tensor, x: Any, s: Any = None, dim: Any = (-2, -1)) -> Names:
    order = _axes_last(x, dim)
    height, width = (int(x.shape[axis]) for axis in _axes(dim, x))
    name = recorder.emit("Transpose", _x(recorder, x), perm=order)
    half = width // 2 + 1
    along_rows = _waves(width)[:, :half]
    name = recorder.emit("MatMul", name, _floats(recorder, np.hstack([along_rows.real, along_rows.imag])))
    along_columns = _waves(height)
    name = recorder.emit("MatMul", _floats(recorder, np.vstack([along_columns.real, along_columns.imag])), name)
    (rr, ri), (ir, ii) = (_halves(recorder, rows, 5, half) for rows in _halves(recorder, name, 4, height))
    return recorder.emit("Sub", rr, ii), recorder.emit("Add", ri, ir)


@writes("fft_irfft2")
def _irfft2(recorder: Recorder, result: Tensor, x: Any, s: Any, dim: Any = (-2, -1)) -> Names:
    height, width = s
    columns = _waves(height).conj() / height
    # Each stored frequency also represents its conjugate, so it counts twice.
    share = np.full((width // 2 + 1, 1), 2.0)
    share[0] = 1
    if width % 2 == 0:
        share[-1] = 1
    rows = share * _waves(width)[: width // 2 + 1].conj() / width
    both = recorder.emit("Concat", *x.names, axis=4)  # real above imaginary
    real = np.hstack([columns.real, -columns.imag])
    imaginary = np.hstack([columns.imag, columns.real])
    name = recorder.emit("MatMul", _floats(recorder, np.vstack([real, imaginary])), both)
    parts = _halves(recorder, name, 4, height)
    joined = recorder.emit("Concat", *parts, axis=5)
    name = recorder.emit("MatMul", joined, _floats(recorder, np.vstack([rows.real, -rows.imag])))
    order = _axes_last(result, dim)
    return recorder.emit("Transpose", name, perm=[order.index(axis) for axis in range(len(order))])


def _complex_product(recorder: Recorder, first: Any, second: Any) -> Names:
    def times(one: str, other: str) -> str:
        return recorder.emit("Mul", one, other)

    (a, b), (c, d) = first.names, second.names
    return recorder.emit("Sub", times(a, c), times(b, d)), recorder.emit("Add", times(a, d), times(b, c))


def _axes_last(x: Tensor, dim: Any) -> list[int]:
    axes = _axes(dim, x)
    return [axis for axis in range(x.ndim) if axis not in axes] + axes


def _waves(length: int) -> np.ndarray:
    """Return the matrix of the discrete Fourier transform."""
    steps = np.arange(length)
    return np.exp(-2j * np.pi * (np.outer(steps, steps) % length) / length)


def _floats(recorder: Recorder, matrix: np.ndarray) -> str:
    return recorder.graph.constant(np.ascontiguousarray(matrix, np.float32))


def _halves(recorder: Recorder, name: str, axis: int, length: int) -> list[str]:
    return recorder.graph.emit("Split", [name, recorder.integers([length, length])], 2, axis=axis)
