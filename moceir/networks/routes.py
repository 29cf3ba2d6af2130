"""Routes: the expert that a picture takes in each layer, the cost, and the budget.

Costs are multiply-adds of convolutions, linear layers and matrix products on a 1280×720 picture, known before any
picture is seen (:mod:`moceir.networks.costs`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

#: Height and width a budget is stated at. Cost grows with area, so the same routes keep the same share elsewhere.
REFERENCE_SIZE = (720, 1280)

#: The bilateral filter after the network, 3 channels × 9 neighbours × 11 operations (design document, eq. 18).
POST_FILTER_MACS_PER_PIXEL = 297


class Routing(NamedTuple):
    """The decision of one routed layer for a batch of B pictures with n experts, of which k are taken."""

    logits: Float[Tensor, "b n"]
    """Before noise."""
    gates: Float[Tensor, "b n"]
    """The softmax where an expert was taken and 0 elsewhere."""
    experts: Int[Tensor, "b k"]
    """The experts taken, most probable first."""
    importance: Float[Tensor, " n"]
    """See :func:`moceir.networks.routing.importance_and_load`."""
    load: Float[Tensor, " n"]
    """See :func:`moceir.networks.routing.importance_and_load`."""


def route_of(routings: Sequence[Routing], batch: int) -> Int[Tensor, "layers b k"]:
    """Return the experts that a batch of pictures took; (0, B, 0) without routing."""
    if not routings:
        return torch.zeros(0, batch, 0, dtype=torch.int64)
    return torch.stack([routing.experts for routing in routings])


class RouteCosts(NamedTuple):
    """Multiply-adds at :data:`REFERENCE_SIZE`."""

    base: int
    """The cost of everything but the experts: network, routing, and post-filter."""
    experts: tuple[tuple[int, ...], ...] = ()
    """The cost of each expert, by layer."""

    def cheapest(self, topk: int) -> int:
        """The cost of the cheapest route."""
        return self.base + sum(sum(sorted(layer)[:topk]) for layer in self.experts)

    def of(self, route: Int[Tensor, "layers b k"]) -> Int[Tensor, " b"]:
        """Return the cost of each picture's route."""
        if not self.experts:
            return torch.full(route.shape[1:2], self.base, device=route.device)
        costs = torch.tensor(self.experts, dtype=torch.int64, device=route.device)
        layers = torch.arange(len(costs), device=route.device)[:, None, None]
        return self.base + costs[layers, route].sum(dim=(0, 2))


class LayerBudget(NamedTuple):
    """The budget of one routed layer."""

    costs: Int[Tensor, " n"]
    """The cost of each expert."""
    ceiling: Int[Tensor, " b"]
    """The most that all experts of a picture may cost here."""


class RoutingRules(NamedTuple):
    """The conditions, apart from the features, under which a layer routes a batch of B pictures."""

    noise: Float[Tensor, "b n"] | None = None
    """Standard normal, scaled by 1/n and added to the logits; None for none."""
    budget: LayerBudget | None = None
    """The budget of the layer; None for no limit."""
    experts: Int[Tensor, "b k"] | None = None
    """Experts to take whatever the logits and the budget say; None lets the router choose."""


@dataclass
class Run:
    """The state, apart from maps, that the parts of a network share while a batch runs through them.

    Attributes:
        costs: of the network's routes.
        mac_budget: GMACs that no picture's route may exceed; None for no limit.
        topk: experts a picture takes in a layer.
        noise: on the routers' logits; None for none.
        experts: those to take; None lets the routers choose.
        frequency: what the routers know of the whole picture, once it is known.
        found: what blocks found of each whole picture so far, for the router of pictures.
        routings: of the layers so far.
    """

    costs: RouteCosts
    mac_budget: float | None = None
    topk: int = 1
    noise: Float[Tensor, "layers b n"] | None = None
    experts: Int[Tensor, "layers b k"] | None = None
    frequency: Float[Tensor, "b d"] | None = None
    found: list[Float[Tensor, "b c"]] = field(default_factory=list)
    routings: list[Routing] = field(default_factory=list)

    def rules(self, batch: int, device: torch.device) -> RoutingRules:
        """Return the next layer's conditions; earlier and the cheapest later layers leave its budget."""
        layer = len(self.routings)
        budget = None
        if self.mac_budget is not None:
            spent = torch.zeros(batch, dtype=torch.int64, device=device)
            for routing, costs in zip(self.routings, self.costs.experts, strict=False):
                spent += torch.tensor(costs, device=device)[routing.experts.to(device)].sum(dim=1)
            reserved = RouteCosts(self.costs.base, self.costs.experts[layer + 1 :]).cheapest(self.topk)
            ceiling = round(self.mac_budget * 1e9) - reserved - spent
            budget = LayerBudget(torch.tensor(self.costs.experts[layer], device=device), ceiling)
        return RoutingRules(
            noise=None if self.noise is None else self.noise[layer],
            budget=budget,
            experts=None if self.experts is None else self.experts[layer],
        )


def check_budget(costs: RouteCosts, gmacs: float | None, topk: int) -> None:
    """Raise ValueError when a budget is less than the cheapest route, or it is not finite."""
    cheapest = costs.cheapest(topk)
    if gmacs is not None and not cheapest <= gmacs * 1e9 + 0.5 < math.inf:
        raise ValueError(
            f"mac_budget of {gmacs:g} GMACs: the cheapest route costs {math.ceil(cheapest / 1e5) / 1e4} at "
            "1280×720; set at least that, or no limit"
        )


def select_experts(scores: Float[Tensor, "b n"], topk: int, budget: LayerBudget | None) -> Int[Tensor, "b k"]:
    """Return the k best-scored experts that the budget allows.

    They are picked one by one; a pick is allowed when the cheapest way to complete it still fits.

    Args:
        scores: of each expert.
        topk: how many to take.
        budget: None for no limit.
    """
    if budget is None:
        return scores.topk(topk, dim=1).indices
    costs = budget.costs.expand(scores.shape).clone()
    ceiling = budget.ceiling
    picks = []
    for still_to_pick in reversed(range(topk)):
        ordered = costs.sort(dim=1).values
        # With any pick go the cheapest others; if it is among those, the next cheapest takes its place.
        total = ordered[:, :still_to_pick].sum(dim=1, keepdim=True) + costs.maximum(
            ordered[:, still_to_pick : still_to_pick + 1]
        )
        pick = scores.masked_fill(total > ceiling[:, None], -torch.inf).argmax(dim=1, keepdim=True)
        picks.append(pick)
        ceiling = ceiling - costs.gather(1, pick)[:, 0]
        costs = costs.scatter(1, pick, torch.iinfo(torch.int64).max // 4)  # taken: never again
        scores = scores.scatter(1, pick, -torch.inf)
    return torch.cat(picks, dim=1)
