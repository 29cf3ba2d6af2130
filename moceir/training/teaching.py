"""Teachers, which choose the experts in training instead of the routers, and the loss by which the routers learn.

Unless its gating is straight-through, a router that chooses one expert gets no gradient from the restoration. A teacher
chooses the expert instead, and the router learns to make the same choice, by cross-entropy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from moceir.losses.pixel import error_in_db
from moceir.networks.interface import Restoration
from moceir.networks.unet import UNet


class Teacher(Protocol):
    """Chooses one expert for each picture; all routed layers take it."""

    weight: float
    """Weight of the routers' cross-entropy in the loss."""

    def experts(self, network: UNet, degraded: Tensor, clean: Tensor, tasks: list[str]) -> Tensor:
        """Choose the expert of each picture in a batch, (B,) int64."""
        ...


class ByTask:
    """Assigns an expert to each task, so that experts that are still equal learn to differ.

    Args:
        of_task: first degradation in a task's name (``motion`` in ``motion+camera``) -> expert, or a list of experts
            that take turns, by the picture's place in the batch.
        weight: see :class:`Teacher`.
    """

    def __init__(self, *, of_task: Mapping[str, int | Sequence[int]], weight: float) -> None:
        self.of_task = {
            task: [experts] if isinstance(experts, int) else list(experts) for task, experts in of_task.items()
        }
        self.weight = weight

    def experts(self, network: UNet, degraded: Tensor, clean: Tensor, tasks: list[str]) -> Tensor:
        """Choose the expert of each picture by its task, see :class:`Teacher`.

        Raises:
            ValueError: when a task has no expert, or the network has no such expert.
        """
        chosen = []
        for place, task in enumerate(tasks):
            kind = task.partition("+")[0]
            experts = self.of_task.get(kind)
            if not experts or not all(0 <= expert < network.num_experts for expert in experts):
                raise ValueError(
                    f"teacher.of_task.{kind}={experts}: give the task one or more of the network's "
                    f"{network.num_experts} experts"
                )
            chosen.append(experts[place % len(experts)])
        return torch.tensor(chosen, device=degraded.device)


INVISIBLE = -50.0
"""In dB: no eye sees an error below it."""

UNSEEN = 0.1
"""What a dB below :data:`INVISIBLE` counts. With 1, a router would rather leave blur than risk a clean picture's last
invisible change; with 0, it would take any expert for flat colours, and some move their borders."""


class ByResult:
    """Chooses the expert with the best restoration of each picture, after a penalty for its cost.

    Args:
        db_per_gmac: the number of dB by which the mean squared error must fall for each additional GMAC of an expert.
        weight: see :class:`Teacher`.
    """

    def __init__(self, *, db_per_gmac: float, weight: float) -> None:
        if not 0 <= db_per_gmac < math.inf:
            raise ValueError(f"teacher.db_per_gmac={db_per_gmac}: give a finite number that is not negative")
        self.db_per_gmac = db_per_gmac
        self.weight = weight

    def experts(self, network: UNet, degraded: Tensor, clean: Tensor, tasks: list[str]) -> Tensor:
        """Choose the expert with the lowest price for each picture, see :class:`Teacher`."""
        return self.prices(network, degraded, clean).argmin(dim=1)

    @torch.no_grad()
    def prices(self, network: UNet, degraded: Tensor, clean: Tensor) -> Tensor:
        """Restore the batch with every expert, and return the prices, (B, n): visible error and cost, in dB."""
        noise = degraded.new_zeros(network.num_layers, len(degraded), network.num_experts)
        prices = []
        for expert in range(network.num_experts):
            route = all_layers(network, torch.full((len(degraded),), expert, device=degraded.device))
            restored = network.restore_and_route(degraded, noise=noise, experts=route).restored.float()
            cost = network.route_costs.of(route).to(degraded.device) / 1e9
            error = error_in_db(restored, clean.float(), floor=0.1)
            seen = error.clamp_min(INVISIBLE) + UNSEEN * (error - INVISIBLE).clamp_max(0)
            prices.append(seen + self.db_per_gmac * cost)
        return torch.stack(prices, dim=1)


def all_layers(network: UNet, expert: Tensor) -> Tensor:
    """Convert experts (B,) to the route (layers, B, 1) that takes them in every layer."""
    return expert.expand(network.num_layers, -1)[..., None]


def router_loss(restoration: Restoration, expert: Tensor) -> Tensor:
    """Return the mean cross-entropy, a scalar, between the routers' logits and the experts (B,) of a teacher."""
    return torch.stack([F.cross_entropy(routing.logits, expert) for routing in restoration.routings]).mean()
