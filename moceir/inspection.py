"""Tables and plots of routing: the experts that pictures take, the routers' logits, and the cost.

With the published gating, a top-1 gate scales a query that is normalised next. So the gate cancels, and the restoration
loss does not train the routers. Only the auxiliary loss trains them; it balances experts over a batch, whatever the
pictures contain. With the straight-through gating, both losses train the routers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moceir.data.datasets import PairSet, Sample, WholePictures
from moceir.data.degradations import Degradation
from moceir.data.pairs import Pair
from moceir.data.pictures import Window
from moceir.data.sources import SamplePhotographs
from moceir.extras import remedy
from moceir.networks.routes import RouteCosts
from moceir.networks.routing import Router, importance_and_load
from moceir.networks.unet import UNet

try:
    from torchmetrics.functional.image import peak_signal_noise_ratio
except ImportError as error:
    raise ImportError(remedy("moceir.inspection", "torchmetrics", "train")) from error

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RouteTally:
    """Counts how often the pictures of each task take each expert of each layer, and sums the cost of the routes.

    Attributes:
        counts: task -> (layers, n) float64, the number of times that each expert is taken.
        cost: task -> sum of the multiply-adds of its pictures' routes at 1280×720, post-filter included.
        pictures: task -> number of pictures.
    """

    def __init__(self) -> None:
        self.counts: dict[str, Tensor] = {}
        self.cost: dict[str, float] = {}
        self.pictures: dict[str, int] = {}

    def add(self, tasks: Iterable[str], routes: Tensor, costs: RouteCosts) -> None:
        """Count a batch, given the tasks of its B pictures and the experts that they took, (layers, B, k)."""
        taken = F.one_hot(routes, len(costs.experts[0])).sum(dim=2).double().cpu()
        for index, (task, cost) in enumerate(zip(tasks, costs.of(routes).tolist(), strict=True)):
            self._add(task, taken[:, index], cost, 1)

    def merge(self, other: RouteTally) -> None:
        """Add another tally's counts."""
        for task, counts in other.counts.items():
            self._add(task, counts, other.cost[task], other.pictures[task])

    def shares(self, task: str) -> Tensor:
        """Return the share of a task's pictures that take each expert, (layers, n)."""
        return self.counts[task] / self.pictures[task]

    def gmacs(self, task: str | None = None) -> float:
        """Return the mean GMACs of a task's pictures, or of all pictures."""
        tasks = self.counts if task is None else [task]
        return sum(self.cost[t] for t in tasks) / sum(self.pictures[t] for t in tasks) / 1e9

    def _add(self, task: str, counts: Tensor, cost: float, pictures: int) -> None:
        self.counts[task] = self.counts.get(task, torch.zeros_like(counts)) + counts
        self.cost[task] = self.cost.get(task, 0.0) + cost
        self.pictures[task] = self.pictures.get(task, 0) + pictures


class Observation(NamedTuple):
    """A restored picture's routing, cost and PSNR."""

    name: str
    task: str
    logits: Tensor
    """(layers, n), the routers' logits."""
    experts: Tensor
    """(layers, k), the experts taken."""
    gmacs: float
    """Cost of the route at 1280×720, post-filter included."""
    psnr: float
    """PSNR of the restored picture in dB."""
    degraded_psnr: float
    """PSNR of the degraded picture in dB."""

    @property
    def entropy(self) -> Tensor:
        """Entropy of the logits' softmax in bits, (layers,); at most log2 n, for uniform probabilities."""
        return -(self.logits.softmax(dim=1) * self.logits.log_softmax(dim=1)).sum(dim=1) / np.log(2)


@torch.inference_mode()
def observe(
    network: UNet,
    pictures: PairSet,
    degradations: Mapping[str, Degradation],
    *,
    expert: int | None = None,
    seed: int = 0,
) -> list[Observation]:
    """Degrade and restore whole pictures, and record the routing.

    Args:
        network: a network in evaluation mode; its budget applies.
        pictures: pairs, or clean pictures, which get each degradation.
        degradations: task name -> degradation.
        expert: the expert that every layer takes; with None, the routers choose.
        seed: seed of the noise.
    """
    device = next(network.parameters()).device
    observations = []
    for degraded, clean, task, name in _samples(WholePictures(sets=[pictures], degradations=degradations, seed=seed)):
        forced = None
        if expert is not None:
            forced = torch.full((network.num_layers, 1, network.topk), expert)
        restoration = network.restore_and_route(degraded[None].to(device), experts=forced)
        route = restoration.route
        restored = restoration.restored[0].clamp(0, 1).cpu()
        observations.append(
            Observation(
                name=name,
                task=task,
                logits=torch.cat([routing.logits for routing in restoration.routings]).cpu(),
                experts=route[:, 0].cpu(),
                gmacs=float(network.route_costs.of(route)[0]) / 1e9,
                psnr=float(peak_signal_noise_ratio(restored, clean, data_range=1.0)),
                degraded_psnr=float(peak_signal_noise_ratio(degraded, clean, data_range=1.0)),
            )
        )
    return observations


def _samples(dataset: WholePictures) -> Iterator[Sample]:
    return (dataset[index] for index in range(len(dataset)))


def by_task(observations: Sequence[Observation]) -> dict[str, list[Observation]]:
    """Group observations by task, in the order of their first appearance."""
    groups: dict[str, list[Observation]] = {}
    for observation in observations:
        groups.setdefault(observation.task, []).append(observation)
    return groups


def layer_names(network: UNet) -> list[str]:
    """Label the MoCE layers, in execution order, with their level (2 is a quarter of the resolution) and block."""
    return [
        f"level {part.level}.{part.name.rpartition('.')[2]}"
        for part in network.parts()
        if hasattr(part.module, "experts")
    ]


def plot_usage(observations: Sequence[Observation], network: UNet) -> Figure:
    """Plot a heat map for each task: the share of its pictures that take each expert, layer by layer."""
    tally = RouteTally()
    for one in observations:
        tally.add([one.task], one.experts[:, None], network.route_costs)
    return plot_tally(tally, network)


def plot_tally(tally: RouteTally, network: UNet) -> Figure:
    """Plot the same heat maps from a tally."""
    import matplotlib.pyplot as plt

    layers = layer_names(network)
    figure, axes = plt.subplots(
        1,
        len(tally.counts),
        figsize=(1.2 + 1.5 * len(tally.counts), 3.2),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for panel, task in zip(axes[0], tally.counts, strict=True):
        picture = panel.imshow(tally.shares(task).numpy(), vmin=0, vmax=1, cmap="viridis", aspect="auto")
        panel.set_title(f"{task}\n{tally.gmacs(task):.2f} G", fontsize=8)
        panel.set_xticks(range(network.num_experts))
    axes[0][0].set_yticks(range(len(layers)), layers, fontsize=8)
    figure.supxlabel("expert", fontsize=9)
    figure.colorbar(picture, ax=axes, label="share of pictures", fraction=0.03)
    return figure


def plot_logits(series: Mapping[float, Sequence[Observation]], network: UNet, strength: str) -> Figure:
    """Plot, layer by layer, how the routers' mean probabilities change with a degradation's strength.

    Args:
        series: strength -> observations, the weakest first.
        network: the network that was observed.
        strength: name of the strength, for the label of the axis.
    """
    import matplotlib.pyplot as plt

    layers = layer_names(network)
    figure, axes = plt.subplots(1, len(layers), figsize=(1.7 * len(layers), 2.4), sharey=True, layout="constrained")
    means = torch.stack([torch.stack([o.logits.softmax(dim=1) for o in seen]).mean(dim=0) for seen in series.values()])
    for number, (panel, layer) in enumerate(zip(axes, layers, strict=True)):
        for expert in range(network.num_experts):
            change = means[:, number, expert] - means[0, number, expert]
            panel.plot(list(series), change.numpy(), ".-", label=f"expert {expert}")
        panel.set_title(layer, fontsize=8)
        panel.grid(linewidth=0.3)
    axes[0].set_ylabel("change in probability")
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    figure.supxlabel(strength, fontsize=9)
    return figure


def plot_balance(observations: Sequence[Observation], network: UNet) -> Figure:
    """Plot each expert's importance and load (eqs. 5 to 8), as shares of one, beside the bias on importance."""
    import matplotlib.pyplot as plt

    layers = layer_names(network)
    logits = torch.stack([o.logits for o in observations], dim=1)
    figure, axes = plt.subplots(1, len(layers), figsize=(1.7 * len(layers), 2.4), sharey=True, layout="constrained")
    places = np.arange(network.num_experts)
    for panel, layer, of_layer, complexity in zip(axes, layers, logits, complexities(network), strict=True):
        importance, load = importance_and_load(of_layer, of_layer, complexity, network.topk)
        for shift, shares, label in ((-0.27, importance, "importance"), (0, load, "load"), (0.27, complexity, "bias")):
            panel.bar(places + shift, (shares / shares.sum()).numpy(), 0.25, label=label)
        panel.set_title(layer, fontsize=8)
        panel.set_xticks(places)
    axes[0].set_ylabel("share")
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    figure.supxlabel("expert", fontsize=9)
    return figure


def complexities(network: UNet) -> list[Tensor]:
    """Return the experts' parameters relative to the largest expert's: (n,) for each layer, in execution order."""
    return [module.complexity.cpu() for module in network.modules() if isinstance(module, Router)]


def plot_entropy(observations: Sequence[Observation], network: UNet) -> Figure:
    """Plot the routers' mean entropy in bits, layer by layer, for each task."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
    for task, seen in by_task(observations).items():
        axes.plot(layer_names(network), torch.stack([o.entropy for o in seen]).mean(dim=0).numpy(), ".-", label=task)
    axes.axhline(np.log2(network.num_experts), color="grey", linewidth=0.7, linestyle="--")
    axes.set_ylim(0, 1.1 * np.log2(network.num_experts))
    axes.set_ylabel("entropy, bits")
    axes.legend(fontsize=7)
    return figure


def plot_forced(free: Sequence[Observation], forced: Mapping[int, Sequence[Observation]]) -> Figure:
    """Plot PSNR and cost when every layer must take the same expert, and those of the routers' own choice."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    choices = {"routed": free} | {f"all {expert}": seen for expert, seen in forced.items()}
    for task in by_task(free):
        groups = [by_task(seen)[task] for seen in choices.values()]
        psnr = [float(np.mean([o.psnr for o in group])) for group in groups]
        axes.plot(
            [float(np.mean([o.gmacs for o in group])) for group in groups],
            [value - psnr[0] for value in psnr],
            "o",
            label=f"{task}: {psnr[0]:.2f} dB routed",
            alpha=0.8,
        )
    for choice, seen in choices.items():
        cost = float(np.mean([o.gmacs for o in seen]))
        axes.annotate(choice, (cost, 1.02), xycoords=("data", "axes fraction"), rotation=60, fontsize=7)
    axes.set_xlabel("GMACs at 1280×720")
    axes.set_ylabel("PSNR against routed, dB")
    axes.grid(linewidth=0.3)
    axes.legend(fontsize=7)
    return figure


def sample_pictures(side: int) -> PairSet:
    """Return the middle squares of the clean photographs that scikit-image ships."""
    pairs, _ = SamplePhotographs(folders=["."]).list_files(Path())
    return PairSet("scikit-image", middle_squares(pairs, side), "")


def middle_squares(pairs: Iterable[Pair], side: int) -> list[Pair]:
    """Crop each pair to its middle square of ``side`` pixels."""
    squares = []
    for pair in pairs:
        height, width = pair.size()
        squares.append(pair._replace(window=Window((height - side) // 2, (width - side) // 2, side, side)))
    return squares
