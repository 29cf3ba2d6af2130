"""Counts the multiply-adds of a network with fvcore, which traces the network.

The counts follow two conventions:

``conv+matmul``
    counts convolutions, linear layers and matrix products, as fvcore and most papers do. The budget limits this count.
``full``
    also counts all other arithmetic. Each element of an element-wise result, or of the input of a mean or sum, counts
    1. Per element, GELU and SiLU count 4, softmax and layer normalisation count 5, and a complex product counts 3. A
    real FFT of N points counts 1.25·N·log2 N (2.5·N·log2 N operations). Data movement (padding, shuffling, indexing)
    counts 0.

Eq. 18 of the design document determines the cost of the bilateral post-filter, which is listed separately.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from moceir.extras import require
from moceir.networks.costs import padded_size
from moceir.networks.experts import Expert, covered_pixels
from moceir.networks.grid import Grid
from moceir.networks.layers import OfMean
from moceir.networks.routes import POST_FILTER_MACS_PER_PIXEL, REFERENCE_SIZE
from moceir.networks.routing import FrequencyEmbedding, PictureRouter, Router
from moceir.networks.strips import Block
from moceir.networks.unet import UNet

_CONV_MATMUL = {"conv", "linear", "matmul", "scaled_dot_product_attention"}
#: Operators whose cost is proportional to the number of windows that cover a picture, not to the picture's area.
_WINDOWED = {"fft_rfft2", "fft_irfft2", "spectrum", "scaled_dot_product_attention", "window_softmax"}


@dataclass(frozen=True)
class Cost:
    """Multiply-adds in the two conventions."""

    conv_matmul: int = 0
    full: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.conv_matmul + other.conv_matmul, self.full + other.full)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.conv_matmul - other.conv_matmul, self.full - other.full)

    def scaled(self, numerator: int, denominator: int) -> Cost:
        """Multiply this cost by a fraction and round it."""
        return Cost(*(round(macs * numerator / denominator) for macs in (self.conv_matmul, self.full)))


@dataclass(frozen=True)
class Part:
    """A part of the network."""

    parameters: int
    cost: Cost


@dataclass(frozen=True)
class Complexity:
    """Parameters and multiply-adds of a network on one picture of a given size."""

    size: tuple[int, int]
    """Height and width in pixels."""
    parts: dict[str, Part]
    """Parts by name, in execution order. They include the experts' parameters, but not the experts' cost."""
    routing: Cost
    """The cost of the frequency embedding and the routers. The parts include it; forced experts do not need it."""
    experts: dict[str, tuple[Part, ...]]
    """The experts of each part that has experts, by the part's name."""
    post_filter: Cost
    """The cost of the bilateral filter."""
    topk: int
    """Number of experts that a picture takes in each layer."""

    @property
    def parameters(self) -> int:
        """The number of parameters of the whole network."""
        return sum(part.parameters for part in self.parts.values())

    @property
    def shared(self) -> Cost:
        """The cost that all routes share, without experts, routing and post-filter."""
        return sum((part.cost for part in self.parts.values()), Cost()) - self.routing

    def forced(self, expert: int) -> Cost:
        """The cost with every layer forced to one expert, without routing and post-filter."""
        return sum((layer[expert].cost for layer in self.experts.values()), self.shared)

    def totals(self) -> dict[str, Cost]:
        """The minimum, expected (all routes equally likely) and maximum cost, routing and post-filter included."""
        base = self.shared + self.routing + self.post_filter

        def route(pick: Callable[[list[int]], float]) -> Cost:
            layers = [
                (pick([part.cost.conv_matmul for part in layer]), pick([part.cost.full for part in layer]))
                for layer in self.experts.values()
            ]
            return base + Cost(*(round(sum(layer[convention] for layer in layers)) for convention in (0, 1)))

        return {
            "minimum": route(lambda costs: sum(sorted(costs)[: self.topk])),
            "expected": route(lambda costs: self.topk * sum(costs) / len(costs)),
            "maximum": route(lambda costs: sum(sorted(costs)[-self.topk :])),
        }


def count_macs(network: UNet, size: tuple[int, int] = REFERENCE_SIZE) -> Complexity:
    """Count a network's parameters and multiply-adds on one 3×H×W picture.

    Every operation's cost is constant, or proportional to the padded picture's area, or to the number of windows or of
    neighbourhoods that cover it. So the counts for two small pictures, whose sides are multiples of all of these,
    determine the exact cost, and no large picture is needed.

    Args:
        network: the network, which is not changed.
        size: height and width in pixels.
    """
    parts = list(network.parts())
    levels = len(network.down)
    windows = [part.module.alignment << part.level for part in parts if isinstance(part.module, Block)]
    spacings = [cast(int, mean.spacing) << level for level, _, mean in _local_means(network)]
    side = math.lcm(1 << levels, *windows, *spacings)
    small, large = _count(network, (side, side)), _count(network, (side, 2 * side))
    height, width = padded_size(levels, size)
    pictures = max(1, network.num_experts)  # picture i took expert i, so shared parts were counted once per picture

    beyond: Counter[str] = Counter()  # of places whose share of the map is not whole, by module
    for level, path, mean in _local_means(network):
        h, w, area = height >> level, width >> level, cast(int, mean.spacing) ** 2
        names = path.split(".")
        for end in range(len(names) + 1):
            beyond[".".join(names[:end])] += mean.weight.numel() * (area * mean.places(h, w) - h * w) // area

    def of_area(name: str) -> Cost:
        (one, _), (two, _) = small[name], large[name]
        whole = one + (two - one).scaled(height * width - side**2, side**2)
        return whole + Cost(beyond[name], beyond[name])

    rows: dict[str, Part] = {}
    rest = of_area("")  # the cost outside all parts: the input added to the output
    routing = Cost()
    experts = {}
    for name, _, level, module in parts:
        cost = of_area(name)
        rest -= cost
        if hasattr(module, "experts"):
            layer = []
            for expert in cast("Iterable[Expert]", module.experts):
                of_expert = next(path for path, child in network.named_modules() if child is expert)
                window = getattr(expert, "window", 1)  # 1 if the expert has no windows
                covered = covered_pixels(height >> level, width >> level, window)
                windowed = small[of_expert][1].scaled(covered, side**2 >> 2 * level)
                layer.append(Part(_parameters(expert), of_area(of_expert) + windowed))
                cost -= of_area(of_expert)
            experts[name] = tuple(layer)
        for path, child in network.named_modules():
            chooses = isinstance(child, Router | FrequencyEmbedding | PictureRouter | Grid)
            if chooses and f"{path}.".startswith(f"{name}."):
                routing += of_area(path).scaled(1, pictures)
        rows[name] = Part(_parameters(module), cost.scaled(1, pictures))
    rows["residual"] = Part(0, rest.scaled(1, pictures))
    post_filter = POST_FILTER_MACS_PER_PIXEL * math.prod(size)
    return Complexity(size, rows, routing, experts, Cost(post_filter, post_filter), network.topk)


def _local_means(network: UNet) -> Iterator[tuple[int, str, OfMean]]:
    """Yield the level, the path and the module of what experts compute from means around places."""
    for name, _, level, module in network.parts():
        for path, child in module.named_modules(prefix=name):
            if isinstance(child, OfMean) and child.spacing is not None:
                yield level, path, child


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class _EachExpert(nn.Module):
    """Runs a network on n pictures, where picture i takes expert i in every layer. Without experts, n is 1."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network
        every = torch.arange(network.num_experts).expand(network.num_layers, -1)[..., None]
        self.route = every if network.num_layers else None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        restoration = self.network.restore_and_route(x, experts=self.route)
        # Return the routers' logits, so that the routers are counted although a forced route ignores them.
        return restoration.restored, *(routing.logits for routing in restoration.routings)


def _count(network: UNet, size: tuple[int, int]) -> dict[str, tuple[Cost, Cost]]:
    """Map module names to (cost by area, cost by windows), for n pictures of the given size, one for each expert."""
    require("counting multiply-adds", "train", "fvcore")
    from fvcore.nn import FlopCountAnalysis

    device = next(network.parameters()).device
    pictures = torch.zeros(max(1, network.num_experts), 3, *size, device=device)
    training = network.training
    counter = FlopCountAnalysis(_EachExpert(network.eval()), pictures)
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).set_op_handle(**_HANDLERS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer warns that Python numbers become constants, as intended
            by_module = counter.by_module_and_operator()
    finally:
        network.train(training)

    def cost(operators: Counter[str], windowed: bool) -> Cost:
        chosen = {name: int(macs) for name, macs in operators.items() if (name in _WINDOWED) == windowed}
        conv_matmul = sum(macs for name, macs in chosen.items() if name in _CONV_MATMUL)
        return Cost(conv_matmul, sum(chosen.values()))

    return {
        name.removeprefix("network."): (cost(operators, False), cost(operators, True))
        for name, operators in by_module.items()
    }


def _shape(value: Any) -> list[int]:
    return value.type().sizes()


def _elementwise(weight: int, *, of_input: bool = False) -> Callable[[list[Any], list[Any]], int]:
    def handle(inputs: list[Any], outputs: list[Any]) -> int:
        return weight * math.prod(_shape((inputs if of_input else outputs)[0]))

    return handle


def _product(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    elements = math.prod(_shape(outputs[0]))
    if inputs[0].node().kind() == "aten::fft_rfft2":
        return Counter(spectrum=3 * elements)
    return Counter(mul=elements)


def _real_fft(inputs: list[Any], outputs: list[Any]) -> int:
    # The windows are the third and fifth axes of (B, rows, w, columns, w, C), in the tensor that is not the spectrum.
    shape = max(_shape(inputs[0]), _shape(outputs[0]), key=math.prod)
    points = shape[2] * shape[4]
    return round(1.25 * math.prod(shape) * math.log2(points))


def _attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    query, key = _shape(inputs[0]), _shape(inputs[1])
    scores = math.prod(query[:-1]) * key[-2]
    return Counter(scaled_dot_product_attention=2 * scores * query[-1], window_softmax=5 * scores)


_HANDLERS = {
    **{
        f"aten::{name}": _elementwise(1)
        for name in ("add", "add_", "sub", "div", "clamp_min", "mul_", "special_ndtr", "neg")
    },
    **{f"aten::{name}": _elementwise(1, of_input=True) for name in ("mean", "sum", "avg_pool2d")},
    **{f"aten::{name}": _elementwise(4) for name in ("gelu", "silu")},
    **{f"aten::{name}": _elementwise(5) for name in ("softmax", "layer_norm")},
    **{f"aten::fft_{name}": _real_fft for name in ("rfft2", "irfft2")},
    "aten::mul": _product,
    "aten::scaled_dot_product_attention": _attention,
}
