"""Rectangles of a map, so that layers can run on one part of a picture at a time with the whole picture's result."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Padding(NamedTuple):
    """Zeros around data."""

    sides: int = 0
    top: int = 0
    bottom: int = 0


class Region(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of a map of ``height`` × ``width`` pixels."""

    top: int
    bottom: int
    left: int
    right: int
    height: int
    width: int

    def grow(self, margin: int) -> Region:
        """The region, of whole rows, and ``margin`` more above and below, as far as the map goes."""
        return self._replace(top=max(0, self.top - margin), bottom=min(self.height, self.bottom + margin))

    def doubled(self) -> Region:
        """The same part of a map of twice the size."""
        return Region(*(2 * length for length in self))

    def halved(self) -> Region:
        """The same part of a map of half the size; all lengths are even."""
        return Region(*(length // 2 for length in self))

    def shifted(self, origin: Region) -> Region:
        """This region of the map that ``origin`` is a part of, when it is now one of that part."""
        rows, columns = origin.top, origin.left
        top, bottom, left, right = self[:4]
        return origin._replace(top=top + rows, bottom=bottom + rows, left=left + columns, right=right + columns)

    def of(self, whole: Tensor) -> Tensor:
        """This part of a whole map (…, H, W), as a view."""
        return whole[..., self.top : self.bottom, self.left : self.right]

    def within(self, outer: Region, part: Tensor) -> Tensor:
        """This part of ``part``, which is the region ``outer`` of a map, as a view."""
        rows = slice(self.top - outer.top, self.bottom - outer.top)
        return part[..., rows, self.left - outer.left : self.right - outer.left]

    def padding(self, outer: Region, reach: int) -> Padding:
        """What data on ``outer``, which is ``self.grow(reach)``, lack where the map ends."""
        return Padding(reach, top=reach - (self.top - outer.top), bottom=reach - (outer.bottom - self.bottom))


def strips(height: int, width: int, *, rows: int) -> list[Region]:
    """Cut a map into regions of so many whole rows, the last one smaller, from top to bottom."""
    return [Region(top, min(height, top + rows), 0, width, height, width) for top in range(0, height, rows)]


NO_PADDING = Padding()


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    padding: Padding = NO_PADDING,
    *,
    groups: int = 1,
    activation: str | None = None,
) -> Tensor:
    """A convolution with zeros around x, and then ``"gelu"``, ``"silu"`` or None."""
    # Whole rows too many are cheaper than a padded copy, and what is left without them is contiguous.
    rows = max(padding.top, padding.bottom)
    sides = [rows, padding.sides]
    if activation is not None and x.device.type == "cpu" and torch.backends.mkldnn.is_available():
        # What torch.compile, too, makes of a convolution and its activation on a CPU: one pass instead of two.
        name = {"gelu": "gelu", "silu": "swish"}[activation]
        y = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, sides, [1, 1], [1, 1], groups, name, [], "none")
    else:
        y = F.conv2d(x, weight, bias, padding=sides, groups=groups)
        if activation is not None:
            y = F.gelu(y) if activation == "gelu" else F.silu(y)
    return y[:, :, rows - padding.top : y.shape[2] - (rows - padding.bottom)]


def convolved_pixels(region: Region, reach: int) -> int:
    """For how many pixels :func:`convolve` computes a kernel of ``2 · reach + 1`` rows, to have it on ``region``."""
    padding = region.padding(region.grow(reach), reach)
    rows = 2 * max(padding.top, padding.bottom) - padding.top - padding.bottom
    return (region.bottom - region.top + rows) * (region.right - region.left)
