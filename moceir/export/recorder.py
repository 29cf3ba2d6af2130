"""Records what a network computes, as ONNX operators, while it runs on a picture without values.

The recorder replaces torch's functions. Its tensors have no values, but they have a shape for each of several picture
sizes. A number that is the same for all sizes becomes a constant of the graph; a number that differs is computed in the
graph; a condition that differs raises an error. Results that depend on weights alone are computed while recording.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from moceir.export.graph import UNKNOWN, Graph


class Size(int):
    """A length that depends on the picture's size; as a number, it has its value in the first sample."""

    samples: tuple[int, ...]
    name: str
    recorder: Recorder

    def __add__(self, other: Any) -> Any:
        return self.recorder.arithmetic(operator.add, "Add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self.recorder.arithmetic(operator.add, "Add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self.recorder.arithmetic(operator.sub, "Sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self.recorder.arithmetic(operator.sub, "Sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return self.recorder.arithmetic(operator.mul, "Mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self.recorder.arithmetic(operator.mul, "Mul", other, self)

    def __mod__(self, other: Any) -> Any:
        return self.recorder.arithmetic(operator.mod, "Mod", self, other)

    def __floordiv__(self, other: Any) -> Any:
        # Divide a multiple, because ONNX's division rounds towards zero.
        multiple = self - self % other
        return self.recorder.arithmetic(operator.floordiv, "Div", multiple, other)

    def __neg__(self) -> Any:
        return 0 - self

    def __eq__(self, other: object) -> bool:  # without a hash beside it; einops would cache results for equal numbers
        return self._decide(operator.eq, other)

    def __ne__(self, other: object) -> bool:
        return self._decide(operator.ne, other)

    def __lt__(self, other: int) -> bool:
        return self._decide(operator.lt, other)

    def __le__(self, other: int) -> bool:
        return self._decide(operator.le, other)

    def __gt__(self, other: int) -> bool:
        return self._decide(operator.gt, other)

    def __ge__(self, other: int) -> bool:
        return self._decide(operator.ge, other)

    def __bool__(self) -> bool:
        return self._decide(operator.ne, 0)

    def _decide(self, compare: Callable[[Any, Any], bool], other: Any) -> bool:
        decisions = {compare(one, sample(other, i)) for i, one in enumerate(self.samples)}
        if len(decisions) > 1:
            raise ValueError("the network branches on the picture's size; export it for one size (--size 720x1280)")
        return decisions.pop()


class Traced(Tensor):
    """The result of a recorded function: shapes, and the name of its value in the graph (two names if complex)."""

    samples: tuple[Tensor, ...]
    names: tuple[str, ...]
    recorder: Recorder
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as torch.nn.Parameter has it

    @property
    def shape(self) -> Any:  # type: ignore[override]  # an attribute in torch's stubs, too
        """The lengths: constants, or a :class:`Size` where a length varies."""
        return tuple(self.recorder.size_of(self, axis) for axis in range(self.samples[0].ndim))

    @property
    def device(self) -> torch.device:  # type: ignore[override]  # torch's stubs have an attribute, not a property
        """The device for constants that the network makes."""
        return torch.device("cpu")

    def numel(self) -> int:
        """Return the number of elements."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.unbind(0))

    def tolist(self) -> NoReturn:
        """Raise an error, because values are not known."""
        raise ValueError("the network branches on values of the picture, which a graph cannot do")


class Recorder(TorchFunctionMode):
    """Records torch's functions of traced tensors while its ``with`` block runs.

    Args:
        operations: name of a torch function -> function that writes it to the graph.
        count: number of samples.
    """

    def __init__(self, operations: dict[str, Callable[..., Any]], count: int) -> None:
        super().__init__()
        self.graph = Graph()
        self.operations = operations
        self.count = count

    def input(self, name: str, samples: Sequence[Sequence[int]]) -> Traced:
        """Add the picture as an input, with its shape in each sample."""
        return self.traced(tuple(torch.empty(tuple(shape), device="meta") for shape in samples), (name,))

    def traced(self, samples: tuple[Tensor, ...], names: tuple[str, ...]) -> Traced:
        """Return a tensor with these shapes whose value has these names."""
        result: Traced = torch.Tensor._make_subclass(Traced, samples[0])
        result.samples, result.names, result.recorder = samples, names, self
        return result

    def size(self, samples: Sequence[int], name: Callable[[], str]) -> int:
        """Return a length; ``name`` is called only if the length is not constant."""
        if len(set(samples)) == 1:
            return samples[0]
        result = Size(samples[0])
        result.samples, result.name, result.recorder = tuple(samples), name(), self
        return result

    def size_of(self, x: Traced, axis: int) -> int:
        """Return a tensor's length in one dimension."""
        lengths = [sample.shape[axis] for sample in x.samples]
        return self.size(lengths, lambda: self.emit("Shape", x.names[0], start=axis, end=axis + 1))

    def arithmetic(self, compute: Callable[[int, int], int], operator: str, first: Any, second: Any) -> int:
        """Compute a length from two others."""
        lengths = [compute(sample(first, i), sample(second, i)) for i in range(self.count)]
        return self.size(lengths, lambda: self.emit(operator, *(self.integers([one]) for one in (first, second))))

    def integers(self, lengths: Sequence[int]) -> str:
        """Return the name of a list of lengths."""
        if not any(isinstance(one, Size) for one in lengths):
            return self.graph.constant(np.array(lengths, np.int64))
        names = [one.name if isinstance(one, Size) else self.integers([one]) for one in lengths]
        return names[0] if len(names) == 1 else self.emit("Concat", *names, axis=0)

    def name(self, value: Any, dtype: torch.dtype) -> str:
        """Return the name of an operand (a tensor, a length, or a number) converted to this type."""
        if isinstance(value, Traced):
            return value.names[0] if value.dtype == dtype else self.cast(value.names[0], dtype)
        if isinstance(value, Size):
            return self.cast(self.emit("Reshape", value.name, self.integers([])), dtype)
        return self.graph.constant(torch.as_tensor(value, dtype=dtype).detach().numpy())

    def cast(self, name: str, dtype: torch.dtype) -> str:
        """Convert a tensor to another type."""
        return self.emit("Cast", name, to=TYPES[dtype])

    def emit(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Return the name of an operator's only result."""
        return self.graph.emit(operator, inputs, **attributes)[0]

    def choose(self, index: Tensor, choices: Sequence[Callable[[], Any]]) -> Traced:
        """Return the result of the choice with this index, () int64; the graph computes no other choice."""
        outer = self.graph
        results = []
        branches = []
        last = len(choices) == 2
        condition = self.emit("Equal", self.name(index, torch.int64), self.name(0, torch.int64))
        for branch in (choices[0], choices[1] if last else lambda: self.choose(index - 1, choices[1:])):
            self.graph = Graph(outer)
            try:
                results.append(branch())
            finally:
                branches.append(self.graph)
                self.graph = outer
        name = outer.emit_branches(condition, branches, [result.names[0] for result in results])
        return self.traced(results[0].samples, (name,))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if not any(map(_unknown, tree_flatten((args, kwargs))[0])):
            return func(*args, **kwargs)
        results = []
        for i in range(self.count):
            positional, named = tree_map(lambda one, i=i: _meta(sample(one, i)), (args, kwargs))
            results.append(func(*positional, **named))
        name = func.__self__.__name__ if func.__name__ == "__get__" else func.__name__
        first, layout = tree_flatten(results[0])
        if not all(isinstance(one, Tensor) for one in first):
            if any(one != results[0] for one in results):
                raise ValueError(
                    f"the network branches on {name}, which depends on the picture's size; export it for one size"
                )
            return results[0]
        operation = self.operations.get(name.strip("_"))
        if operation is None:
            names: Any = self.graph.emit(UNKNOWN, [], len(first), about=f"{name}")
        else:
            names = operation(self, results[0], *args, **kwargs)
        names = [names] if isinstance(names, (str, tuple)) else names
        samples = zip(*(tree_flatten(one)[0] for one in results), strict=True)
        traced = [
            self.traced(shapes, (one,) if isinstance(one, str) else one)
            for shapes, one in zip(samples, names, strict=True)
        ]
        return torch.utils._pytree.tree_unflatten(traced, layout)


def sample(value: Any, index: int) -> Any:
    """Return a length's, a tensor's, or a slice's value in a sample."""
    if isinstance(value, slice):
        return slice(*(sample(one, index) for one in (value.start, value.stop, value.step)))
    return value.samples[index] if isinstance(value, (Size, Traced)) else value


def _unknown(value: Any) -> bool:
    if isinstance(value, slice):
        return any(isinstance(one, Size) for one in (value.start, value.stop, value.step))
    return isinstance(value, (Traced, Size))


def _meta(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("meta")
    return value.to("meta") if isinstance(value, Tensor) else value


TYPES = {torch.float32: 1, torch.int64: 7, torch.bool: 9, torch.float64: 11}
"""torch type -> ONNX type number."""
