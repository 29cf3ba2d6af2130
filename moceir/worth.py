"""Measures the worth of blocks and experts: the quality that pictures lose when one of them is left out.

Routing statistics do not show whether an expert helps the pictures that take it. The loss without that expert does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio

from moceir.data.datasets import Sample
from moceir.networks.costs import macs, padded_size
from moceir.networks.routes import REFERENCE_SIZE
from moceir.networks.strips import Block
from moceir.networks.unet import Part, UNet

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Worth(NamedTuple):
    """The loss of quality and the saving of cost from a change to a network."""

    change: str
    """The change, such as ``without encoder.0.0`` or ``expert 2 everywhere``."""
    saved: float
    """GMACs saved at 1280×720, mean over pictures; negative when the change costs more."""
    lost: dict[str, float]
    """Task -> dB of PSNR that its pictures lose on average; negative when they gain."""

    @property
    def mean(self) -> float:
        """The lost dB, mean over tasks."""
        return fmean(self.lost.values())

    @property
    def per_gmac(self) -> float:
        """The lost dB, mean over tasks, for each GMAC saved; NaN when the change saves nothing."""
        return self.mean / self.saved if self.saved > 0 else float("nan")


class _Restored(NamedTuple):
    psnr: Tensor
    """(pictures,) dB, of values clamped to [0, 1]."""
    gmacs: Tensor
    """(pictures,), each route's cost."""
    routes: list[Tensor]
    """Each picture's experts, (layers, 1, k)."""
    logits: list[Tensor]
    """Each picture's logits, (layers, n)."""


@torch.inference_mode()
def account(network: UNet, samples: Sequence[Sample]) -> Iterator[Worth]:
    """Measure the worth of each block and each expert.

    Args:
        network: a network in evaluation mode; its budget applies. It is unchanged afterwards.
        samples: pictures to restore, on the network's device.

    Yields:
        One result for each change, in this order:

        - Each block in turn, in execution order, is left out. The routes do not change.
        - If layers take one expert, each expert in turn is taken in every layer.
        - If layers take one expert, each expert of each layer in turn is left out. Pictures that took it take their
          next best expert instead.
    """
    tasks = list(dict.fromkeys(sample.task for sample in samples))
    task_of = torch.tensor([tasks.index(sample.task) for sample in samples])
    free = _restore(network, samples, [None] * len(samples))

    def worth(change: str, changed: _Restored, saved: float | None = None) -> Worth:
        lost = free.psnr - changed.psnr
        return Worth(
            change,
            float((free.gmacs - changed.gmacs).mean()) if saved is None else saved,
            {task: float(lost[task_of == index].mean()) for index, task in enumerate(tasks)},
        )

    for part in network.parts():
        if isinstance(part.module, Block) and part.module.rewrites:
            with left_out(part.module):
                changed = _restore(network, samples, free.routes if network.num_layers else [None] * len(samples))
            yield worth(f"without {part.name}", changed, _gmacs(network, part))
    if network.topk != 1:
        return
    for expert in range(network.num_experts):
        forced = [torch.full_like(route, expert) for route in free.routes]
        yield worth(f"expert {expert} everywhere", _restore(network, samples, forced))
    for layer, expert in itertools.product(range(network.num_layers), range(network.num_experts)):
        others = []
        for route, logits in zip(free.routes, free.logits, strict=True):
            next_best = logits[layer].index_fill(0, torch.tensor(expert), -torch.inf).argmax()
            others.append(
                route.index_put((torch.tensor(layer),), torch.where(route[layer] == expert, next_best, route[layer]))
            )
        yield worth(f"layer {layer} without expert {expert}", _restore(network, samples, others))


def _restore(network: UNet, samples: Sequence[Sample], routes: Sequence[Tensor | None]) -> _Restored:
    """Restore every sample along its given route, or along the routers' choice if its route is None."""
    restored = _Restored(torch.empty(len(samples)), torch.empty(len(samples)), [], [])
    for index, (sample, route) in enumerate(zip(samples, routes, strict=True)):
        picture, routings = result = network.restore_and_route(sample.degraded[None], experts=route)
        restored.psnr[index] = peak_signal_noise_ratio(picture[0].clamp(0, 1), sample.clean, data_range=1.0)
        restored.gmacs[index] = network.route_costs.of(result.route)[0] / 1e9
        restored.routes.append(result.route)
        restored.logits.append(torch.cat([torch.empty(0, network.num_experts), *(one.logits for one in routings)]))
    return restored


def plot_worth(found: Sequence[Worth]) -> Figure:
    """Plot a heat map of the lost dB: a row for each change, a column for each task."""
    import matplotlib.pyplot as plt

    lost = torch.tensor([list(one.lost.values()) for one in found])
    figure, axes = plt.subplots(figsize=(2.8 + 0.7 * lost.shape[1], 1.4 + 0.2 * len(found)), layout="constrained")
    scale = float(lost.abs().max().clamp_min(0.1))
    map_ = axes.imshow(lost.numpy(), cmap="RdBu_r", vmin=-scale, vmax=scale, aspect="auto")
    for row, column in itertools.product(*map(range, lost.shape)):
        value = float(lost[row, column])
        colour = "white" if abs(value) > 0.6 * scale else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=colour)
    axes.set_xticks(range(lost.shape[1]), found[0].lost, fontsize=7, rotation=45, ha="right")
    axes.set_yticks(range(len(found)), [one.change for one in found], fontsize=7)
    figure.colorbar(map_, label="lost, dB", fraction=0.05)
    return figure


@contextmanager
def left_out(block: nn.Module) -> Iterator[None]:
    """Make a block return its input while the context is open."""

    def skip(module: nn.Module, args: tuple[Any, ...], result: Tensor) -> Tensor:
        return cast(Tensor, args[0])

    handle = block.register_forward_hook(skip)
    try:
        yield
    finally:
        handle.remove()


def _gmacs(network: UNet, part: Part) -> float:
    """Return a part's cost at 1280×720, where each of the experts that a picture takes has the experts' mean cost."""
    height, width = padded_size(len(network.down), REFERENCE_SIZE)
    size = height >> part.level, width >> part.level
    experts = [macs(expert, *size) for expert in cast("nn.ModuleList", getattr(part.module, "experts", []))]
    taken = network.topk * fmean(experts) if experts else 0
    return (macs(part.module, *size) - sum(experts) + taken) / 1e9
