"""Which expert each picture of a batch takes in training, where that is not left to the routers, and what they learn.

A router that chooses one expert gets no gradient from the restoration. A teacher decides instead, and the router learns
to decide likewise, by cross-entropy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from moceir.networks.interface import Restoration
from moceir.networks.unet import UNet


class Teacher(Protocol):
    """Chooses experts; any routed layer of a picture takes the same."""

    weight: float
    """Of the routers' cross-entropy in the loss."""

    def experts(self, network: UNet, degraded: Tensor, clean: Tensor, tasks: list[str]) -> Tensor:
        """(B,) int64, the expert of each picture of a batch."""
        ...


class ByTask:
    """Each task has an expert. It parts experts that are still equal.

    Args:
        of_task: first part of a task's name (``motion`` of ``motion+camera``) -> expert.
        weight: see :class:`Teacher`.
    """

    def __init__(self, *, of_task: Mapping[str, int], weight: float) -> None:
        self.of_task = dict(of_task)
        self.weight = weight

    def experts(self, network: UNet, degraded: Tensor, clean: Tensor, tasks: list[str]) -> Tensor:
        """As of :class:`Teacher`.

        Raises:
            ValueError: when a task has no expert, or the network has no such expert.
        """
        kinds = [task.partition("+")[0] for task in tasks]
        for kind in kinds:
            expert = self.of_task.get(kind)
            if expert is None or not 0 <= expert < network.num_experts:
                raise ValueError(
                    f"teacher.of_task.{kind}={expert}: give the task one of the network's {network.num_experts} experts"
                )
        return torch.tensor([self.of_task[kind] for kind in kinds], device=degraded.device)


class ByResult:
    """Each picture takes the expert that restores it best at a price.

    Args:
        db_per_gmac: by how much the mean squared error must fall for each GMAC that an expert costs more.
        weight: see :class:`Teacher`.
    """

    def __init__(self, *, db_per_gmac: float, weight: float) -> None:
        if not 0 <= db_per_gmac < math.inf:
            raise ValueError(f"teacher.db_per_gmac={db_per_gmac}: give a price that is not negative")
        self.db_per_gmac = db_per_gmac
        self.weight = weight

    @torch.no_grad()
    def experts(self, network: UNet, degraded: Tensor, clean: Tensor, tasks: list[str]) -> Tensor:
        """As of :class:`Teacher`; it restores the batch with every expert."""
        noise = degraded.new_zeros(network.num_layers, len(degraded), network.num_experts)
        prices = []
        for expert in range(network.num_experts):
            route = all_layers(network, torch.full((len(degraded),), expert, device=degraded.device))
            error = (network.restore_and_route(degraded, noise=noise, experts=route).image - clean).float()
            cost = network.route_costs.of(route).to(error.device) / 1e9
            # Errors below half a level of 8 bits are as good as none.
            prices.append(
                10 * (error.square().mean(dim=(1, 2, 3)) + (0.5 / 255) ** 2).log10() + self.db_per_gmac * cost
            )
        return torch.stack(prices).argmin(dim=0)


def all_layers(network: UNet, expert: Tensor) -> Tensor:
    """(B,) experts -> (layers, B, 1), the route that takes them in every layer."""
    return expert.expand(network.num_layers, -1)[..., None]


def router_loss(restoration: Restoration, expert: Tensor) -> Tensor:
    """Mean cross-entropy of the routers' logits to the experts (B,) that a teacher chose; a scalar."""
    return torch.stack([F.cross_entropy(routing.logits, expert) for routing in restoration.routings]).mean()
