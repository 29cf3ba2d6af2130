"""Counts the cost of a network's routes from the shapes of its layers.

It is what fvcore and torch's counter find by running the network (:mod:`moceir.complexity`), known at once, because a
budget needs it before any picture is seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from torch import nn

from moceir.networks.layers import OfMean
from moceir.networks.routes import POST_FILTER_MACS_PER_PIXEL, REFERENCE_SIZE, RouteCosts


@runtime_checkable
class Part(Protocol):
    """See :class:`moceir.networks.unet.Part`."""

    @property
    def level(self) -> int: ...

    @property
    def module(self) -> nn.Module: ...


@runtime_checkable
class HasProducts(Protocol):
    """A module that multiplies matrices outside its convolutions."""

    def matmul_macs(self, height: int, width: int) -> int:
        """Return the multiply-adds of those products on a height×width map."""
        ...


def padded_size(halvings: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width to which a network pads a picture so that every level halves them."""
    multiple = 1 << halvings
    height, width = (-(-length // multiple) * multiple for length in size)
    return height, width


def macs(module: nn.Module, height: int, width: int) -> int:
    """Count a module's multiply-adds on height×width maps; only strides change sizes; linear layers take vectors."""
    total = 0
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            if isinstance(part, OfMean):
                total += part.weight.numel() * part.places(height, width)
                continue
            total += part.weight.numel() * (height // part.stride[0]) * (width // part.stride[1])
        elif isinstance(part, nn.Linear):
            total += part.weight.numel()
        elif isinstance(part, HasProducts):
            total += part.matmul_macs(height, width)
    return total


def route_costs(parts: Iterable[Part], halvings: int) -> RouteCosts:
    """The costs of every route through a network, post-filter included.

    Args:
        parts: of the network; those with a choice of experts list them as ``experts``.
        halvings: levels below the full resolution.
    """
    height, width = padded_size(halvings, REFERENCE_SIZE)
    base = POST_FILTER_MACS_PER_PIXEL * math.prod(REFERENCE_SIZE)
    experts = []
    for part in parts:
        size = height >> part.level, width >> part.level
        base += macs(part.module, *size)
        choice = getattr(part.module, "experts", None)
        if choice is not None:
            experts.append(tuple(macs(expert, *size) for expert in choice))
            base -= sum(experts[-1])
    return RouteCosts(base, tuple(experts))
