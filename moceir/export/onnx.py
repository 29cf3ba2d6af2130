"""Exports a network as an ONNX model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from typing import cast

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from moceir.export.graph import OPSET
from moceir.export.operations import OPERATIONS
from moceir.export.recorder import Recorder
from moceir.networks.blocks import DecoderBlock, MoCE
from moceir.networks.folding import folded
from moceir.networks.naf_mixture import RoutedBlock
from moceir.networks.routes import Routing, Run
from moceir.networks.strips import NO_HALO, Halo
from moceir.networks.unet import UNet

ROUTED = "routed"
CHEAPEST = "cheapest"


class OnePicture(nn.Module):
    """A MoCE layer for one picture; the graph runs one of its experts.

    Args:
        moce: the layer.
        recorder: writes the choice.
        fixed: the experts to take; None leaves that to the router.
    """

    def __init__(self, moce: MoCE, recorder: Recorder, fixed: Sequence[int] | None) -> None:
        super().__init__()
        self.moce, self.recorder, self.fixed = moce, recorder, fixed
        self.experts, self.router = moce.experts, moce.router

    def forward(self, x: Tensor, shared: Tensor, routing: Routing, halo: Halo = NO_HALO) -> Tensor:
        """Run the layer as :meth:`moceir.networks.blocks.MoCE.forward` does."""
        residual = self.moce.residual(x)
        picks = []
        for pick in range(self.router.topk):
            if self.fixed is None:
                added = self.recorder.choose(
                    routing.experts[0, pick], [partial(expert, x, shared) for expert in self.experts]
                )
            else:
                added = self.experts[self.fixed[pick]](x, shared)
            picks.append(added + residual)
        if len(picks) == 1:  # the gate of one expert cancels: it scales a query that is normalised next
            return self.moce.project(picks[0])
        gates = routing.gates.gather(1, routing.experts)[..., None, None, None]
        return self.moce.project(sum((picks[i] * gates[:, i] for i in range(1, len(picks))), picks[0] * gates[:, 0]))


class OneBlock(nn.Module):
    """A block with experts for one picture; the graph runs one of them."""

    def __init__(self, block: RoutedBlock, recorder: Recorder) -> None:
        super().__init__()
        self.experts, self.recorder = block.experts, recorder

    def forward(self, x: Tensor, run: Run) -> Tensor:
        """Run the block as :class:`~moceir.networks.naf_mixture.RoutedBlock` does."""
        taken = run.routings[-1].experts[0, 0]
        return cast(Tensor, self.recorder.choose(taken, [partial(expert, x, run) for expert in self.experts]))


def to_onnx(network: UNet, *, route: str = ROUTED, size: tuple[int, int] | None = None) -> onnx.ModelProto:
    """Write a network as an ONNX model that restores one picture as the network does, up to rounding.

    The model maps ``image``, (1, 3, H, W) float32, RGB in [0, 1], to ``restored``, the same, not clamped. The metadata
    record the network, the version of this package, and the route.

    Args:
        network: in any mode; its ``mac_budget`` holds for a routed model.
        route: ``"routed"`` for a model that chooses experts as the network does, and computes those alone; or, without
            any choice in it, ``"cheapest"``, or an expert for each routed layer as in ``"0,1,0"`` (of several that a
            picture takes, ``"0+1,0+2"``). A network without routed layers is the same for the first two.
        size: height and width of the only pictures it takes; None for any.

    Raises:
        ValueError: when the route is none of the network's, or the network does something that cannot be written.
    """
    experts = parse_route(route, network)
    samples = sample_sizes(1 << len(network.down)) if size is None else [size]
    recorder = Recorder(OPERATIONS, len(samples))
    with torch.no_grad():
        network = folded(network).float().cpu().requires_grad_(False)
        layers = iter(experts) if experts is not None else None
        for block in network.modules():
            if isinstance(block, DecoderBlock):
                one = OnePicture(block.moce, recorder, None if layers is None else next(layers))
                block.set_submodule("moce", one)  # the same layer for one picture
                block.straight_through = False  # a factor of 1, for the gradient
        if experts is None:
            for name, block in list(network.named_modules()):
                if isinstance(block, RoutedBlock):
                    network.set_submodule(name, OneBlock(block, recorder))
    choice = None if not experts else torch.tensor(experts)[:, None]
    # With gradients a network changes nothing in place.
    with recorder, torch.enable_grad():
        picture = recorder.input("image", [(1, 3, *one) for one in samples])
        restored = network.restore_and_route(picture, experts=choice).restored
    recorder.graph.emit_as("restored", recorder.name(restored, torch.float32))
    lengths = ("height", "width") if size is None else size
    image_type, restored_type = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, *lengths]) for name in ("image", "restored")
    )
    graph = recorder.graph.proto("moceir", [image_type], [restored_type])
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=10,  # of opset 21 and before: newer files older runtimes refuse
        producer_name="moceir",
        producer_version=version("moceir"),
    )
    helper.set_model_props(model, about(network, experts))
    onnx.checker.check_model(model)
    return model


def sample_sizes(multiple: int) -> list[tuple[int, int]]:
    """Return the sizes at which a graph for any size is recorded, for a network that pads to multiples.

    Two of them follow each other when they are padded, so that a remainder that is the same for all three is the same
    for every size; and some are no multiples.
    """
    rows, columns = (3 * multiple - 1, 4 * multiple, 19 * multiple - 1), (5 * multiple, 6 * multiple - 1, 23 * multiple)
    return list(zip(rows, columns, strict=True))


def about(network: UNet, experts: Sequence[Sequence[int]] | None) -> dict[str, str]:
    """Return the metadata of an exported model."""
    taken = ROUTED if experts is None else ",".join("+".join(map(str, layer)) for layer in experts)
    return {
        "name": type(network).__name__,
        "version": version("moceir"),
        "route": taken if network.num_layers else "none",
        "config": json.dumps(network.config),
    }


def parse_route(route: str, network: UNet) -> list[list[int]] | None:
    """Parse a text into each layer's experts; None leaves the choice to the graph.

    Raises:
        ValueError: when the network has no such route.
    """
    if route == ROUTED:
        return None
    if route == CHEAPEST:
        ranked = [sorted(range(len(layer)), key=layer.__getitem__) for layer in network.route_costs.experts]
        return [layer[: network.topk] for layer in ranked]
    try:
        experts = [[int(expert) for expert in layer.split("+")] for layer in route.split(",")]
    except ValueError:
        experts = []
    right = len(experts) == network.num_layers and all(
        len(set(layer)) == len(layer) == network.topk and min(layer) >= 0 and max(layer) < network.num_experts
        for layer in experts
    )
    if not experts or not right:
        takes = f"{network.num_layers} layers, in each {network.topk} of the experts 0 to {network.num_experts - 1}"
        raise ValueError(
            f"route {route!r}: give {ROUTED}, {CHEAPEST}, or experts as in 0,1,0; "
            + (f"this network has {takes}" if network.num_layers else "this network has no routed layers")
        )
    return experts
