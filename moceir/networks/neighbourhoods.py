"""Means over the neighbourhood of each place in a map, in place of one mean over the picture.

Networks learn channel attention on crops. In a whole photograph the mean covers much else than what is around a place,
so it differs from those of crops (Chu et al., ECCV 2022, arXiv 2112.04491). Here it covers a square of about a crop's
size, at places half its side apart; between these, what follows from it is interpolated.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from moceir.networks.strips import Sums

#: Cells across a square's side. Strips begin where cells do, so their rows are finer than their columns.
ROWS, COLUMNS = 16, 4


class CellSums(Sums):
    """Sums over the cells of a strip, and how much of each cell lies in the map; cells stay apart when strips meet."""

    def plus(self, below: Sums) -> Sums:
        """Return the cells of this strip and of the next one below it."""
        return CellSums(torch.cat(pair, dim=2) for pair in zip(self, below, strict=True))


def sum_over_cells(x: Float[Tensor, "b c h w"], side: int) -> CellSums:
    """Sum over cells of side/16 × side/4 pixels, in units of a whole cell's pixels.

    Args:
        x: a strip whose first row is a multiple of side/16.
        side: pixels of a neighbourhood's side, a multiple of 16.
    """
    cell = side // ROWS, side // COLUMNS
    height, width = x.shape[2:]
    inside = F.pad(
        torch.ones(1, 1, height, width, dtype=x.dtype, device=x.device), (0, -width % cell[1], 0, -height % cell[0])
    )
    share = F.avg_pool2d(inside, cell)
    return CellSums((F.avg_pool2d(x, cell, ceil_mode=True, count_include_pad=False) * share, share))


def means_around(sums: Sums) -> Float[Tensor, "b c rows columns"]:
    """Return the means over neighbourhoods; their middles are half a side apart, the first a quarter from the edges."""
    total, share = (
        F.avg_pool2d(one, (ROWS, COLUMNS), (ROWS // 2, COLUMNS // 2), (ROWS // 4, COLUMNS // 4), ceil_mode=True)
        for one in sums
    )
    return total / share


def between(
    values: Float[Tensor, "b c rows columns"], side: int, top: int, height: int, width: int
) -> Float[Tensor, "b c {height} {width}"]:
    """Interpolate what follows from :func:`means_around` to each pixel of a strip, linearly.

    Args:
        values: at all places of the map.
        side: of the neighbourhoods.
        top, height, width: the strip's first row in the map, and its size.
    """
    spacing, margin = side // 2, side // 4
    first, last = max(0, (top - margin) // spacing), (top + height - 1 + margin) // spacing
    start = top - first * spacing
    columns = F.interpolate(values[:, :, first : last + 1], scale_factor=(spacing, 1), mode="bilinear")
    rows = F.interpolate(columns[:, :, start : start + height], scale_factor=(1, spacing), mode="bilinear")
    return rows[:, :, :, :width]
