"""Restores a picture in overlapping tiles and blends them: for pictures whose maps do not fit into memory.

Channel attention, routers and frequency embedding use their whole input, so the result in tiles differs from the
whole picture's. The middle tile chooses the experts for all tiles, so that experts do not change from tile to tile
and the budget holds for all.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from moceir.engine.pictures import Read, Write
from moceir.engine.regions import Region
from moceir.engine.schedule import Engine
from moceir.networks.routes import Routing, route_of

#: Pixels by which neighbouring tiles overlap and over which they are blended.
OVERLAP = 64


def check_side(side: int) -> None:
    """Raise ValueError when tiles are not larger than their overlap."""
    if side <= OVERLAP:
        raise ValueError(f"tiles of {side} pixels: they overlap by {OVERLAP}, so they must be larger")


def overlapping_tiles(height: int, width: int, side: int) -> list[Region]:
    """Cover a picture with evenly spaced tiles of at most ``side`` pixels that overlap by :data:`OVERLAP` or more."""

    def starts(length: int) -> list[int]:
        if length <= side:
            return [0]
        count = -(-(length - OVERLAP) // (side - OVERLAP))
        return [round(index * (length - side) / (count - 1)) for index in range(count)]

    return [
        Region(top, min(height, top + side), left, min(width, left + side), height, width)
        for top in starts(height)
        for left in starts(width)
    ]


def fade(tile: Region) -> Float[Tensor, "{tile.bottom-tile.top} {tile.right-tile.left}"]:
    """Return a tile's blending weights, which fall towards edges that another tile overlaps."""

    def ramp(start: int, stop: int, length: int) -> Tensor:
        weight = torch.ones(stop - start)
        slope = (torch.arange(min(OVERLAP, stop - start)) + 0.5) / OVERLAP
        if start > 0:
            weight[: len(slope)] = slope
        if stop < length:
            weight[-len(slope) :] *= slope.flip(0)
        return weight

    return torch.outer(ramp(tile.top, tile.bottom, tile.height), ramp(tile.left, tile.right, tile.width))


def run_in_tiles(
    engine: Engine,
    read: Read,
    write: Write,
    height: int,
    width: int,
    *,
    side: int,
    experts: Int[Tensor, "layers 1 k"] | None = None,
) -> tuple[Routing, ...]:
    """Like :meth:`~moceir.engine.schedule.Engine.run`, in tiles; the routing is that of the tile in the middle.

    Args:
        side: pixels of a tile's side; :func:`check_side` must accept it.
    """
    tiles = overlapping_tiles(height, width, side)
    blended = torch.zeros(1, 3, height, width)
    weights = torch.zeros(height, width)
    # The middle tile runs first, because it chooses the experts.
    middle = min(tiles, key=lambda t: abs(t.top + t.bottom - height) + abs(t.left + t.right - width))
    decisions: tuple[Routing, ...] = ()
    for tile in [middle, *(tile for tile in tiles if tile is not middle)]:
        weight = fade(tile)

        def read_tile(region: Region, tile: Region = tile) -> Tensor:
            return read(region.shifted(tile))

        def add(region: Region, part: Tensor, tile: Region = tile, weight: Tensor = weight) -> None:
            share = region.of(weight)
            region.shifted(tile).of(blended).add_(part.cpu() * share)
            region.shifted(tile).of(weights).add_(share)

        rows, columns = tile.bottom - tile.top, tile.right - tile.left
        routings = engine.run(read_tile, add, rows, columns, experts=experts)
        if routings and not decisions:
            decisions, experts = routings, route_of(routings, 1)
    write(Region(0, height, 0, width, height, width), blended.div_(weights))
    return decisions
