"""What every route costs, and a budget that no route exceeds.

Costs are multiply-adds of convolutions, linear layers and matrix products on a 1280×720 picture, known from the
layers' shapes before any picture is seen. They are exactly what :mod:`moceir.complexity` counts with fvcore.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from moceir.network.attention import CrossAttention, SelfAttention
from moceir.network.experts import AttentionMixer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moceir.network.blocks import DecoderBlock
    from moceir.network.unet import MoCEIR

#: Height and width a budget is stated at. Cost grows with area, so the same routes keep the same share elsewhere.
REFERENCE_SIZE = (720, 1280)

#: The bilateral filter after the network, 3 channels × 9 neighbours × 11 operations (design document, eq. 18).
POST_FILTER_MACS_PER_PIXEL = 297


class RouteCosts(NamedTuple):
    """Multiply-adds at :data:`REFERENCE_SIZE`."""

    base: int
    """Everything but the experts: network, routing and post-filter."""
    experts: tuple[tuple[int, ...], ...]
    """(layer, expert)."""

    def cheapest(self, topk: int) -> int:
        """The cost of the cheapest route."""
        return self.base + sum(sum(sorted(layer)[:topk]) for layer in self.experts)

    def of(self, route: Tensor) -> Tensor:
        """(layers, B, k) experts -> (B,) cost of each image's route."""
        costs = torch.tensor(self.experts, device=route.device)
        layers = torch.arange(len(costs), device=route.device)[:, None, None]
        return self.base + costs[layers, route].sum(dim=(0, 2))


class LayerBudget(NamedTuple):
    """What one MoCE layer may spend."""

    costs: Tensor
    """(n,) int64, of each expert."""
    ceiling: Tensor
    """(B,) int64, for all the experts an image takes here."""


def covered_pixels(height: int, width: int, window: int) -> int:
    """Pixels in the windows that cover a map, those beyond its border included."""
    return -(-height // window) * -(-width // window) * window**2


def padded_size(halvings: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width that the network pads a picture to, so that every level halves them."""
    multiple = 1 << halvings
    height, width = (-(-length // multiple) * multiple for length in size)
    return height, width


def window_macs(mixer: nn.Module, height: int, width: int) -> int:
    """Multiply-adds of what an expert does within its windows: products of its attention; transforms are none."""
    if not isinstance(mixer, AttentionMixer):
        return 0
    return 2 * mixer.window**2 * mixer.project.out_channels * covered_pixels(height, width, mixer.window)


def macs(module: nn.Module, height: int, width: int) -> int:
    """Multiply-adds on one height×width map of a block whose layers all keep the resolution."""
    total = 0
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            total += part.weight.numel() * height * width
        elif isinstance(part, nn.Linear):  # on vectors, not maps
            total += part.weight.numel()
        elif isinstance(part, SelfAttention | CrossAttention):  # q kᵀ and its product with v
            dim, heads = part.project.out_channels, len(part.temperature)
            total += 2 * dim * dim // heads * height * width
        else:
            total += window_macs(part, height, width)
    return total


def route_costs(network: MoCEIR) -> RouteCosts:
    """The costs of every route through ``network``, post-filter included."""
    height, width = padded_size(len(network.down), REFERENCE_SIZE)
    latent = len(network.down)
    by_level: list[tuple[int, nn.Module]] = [(0, network.embed), (0, network.refinement), (0, network.output)]
    by_level += [*enumerate(network.encoder), *enumerate(network.down)]
    by_level += [(latent, network.latent), (latent, network.frequency)]
    experts = []
    base = POST_FILTER_MACS_PER_PIXEL * REFERENCE_SIZE[0] * REFERENCE_SIZE[1]
    for step, level in enumerate(reversed(range(latent))):
        by_level += [(level + 1, network.up[step]), (level, network.fuse[step])]
        for block in cast("Iterable[DecoderBlock]", network.decoder[step]):
            costs = tuple(macs(expert, height >> level, width >> level) for expert in block.moce.experts)
            experts.append(costs)
            by_level.append((level, block))
            base -= sum(costs)
    base += sum(macs(module, height >> level, width >> level) for level, module in by_level)
    return RouteCosts(base, tuple(experts))


def check_budget(costs: RouteCosts, gmacs: float | None, topk: int) -> None:
    """Raise ValueError when even the cheapest route costs more than a budget, or it is not finite."""
    cheapest = costs.cheapest(topk)
    if gmacs is not None and not cheapest <= gmacs * 1e9 + 0.5 < math.inf:
        raise ValueError(
            f"mac_budget of {gmacs:g} GMACs: the cheapest route costs {math.ceil(cheapest / 1e5) / 1e4} at "
            "1280×720; set at least that, or None for no limit"
        )


def layer_budget(costs: RouteCosts, gmacs: float | None, *, topk: int, layer: int, spent: Tensor) -> LayerBudget | None:
    """What is left for a layer when earlier ones spent (B,) and later ones take their cheapest experts."""
    if gmacs is None:
        return None
    reserved = RouteCosts(costs.base, costs.experts[layer + 1 :]).cheapest(topk)
    return LayerBudget(
        costs=torch.tensor(costs.experts[layer], device=spent.device), ceiling=round(gmacs * 1e9) - reserved - spent
    )


def select_experts(scores: Tensor, topk: int, budget: LayerBudget | None) -> Tensor:
    """The k best-scored experts that the budget allows.

    They are picked one by one; a pick is allowed when the cheapest way to complete it still fits.

    Args:
        scores: (B, n).
        topk: how many to take.
        budget: None for no limit.

    Returns:
        (B, k) int64.
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
