"""Rectangles of a map, so that layers can run on one part of a picture at a time with the whole picture's result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Padding(NamedTuple):
    """Zeros around data."""

    left: int
    right: int
    top: int
    bottom: int


class Region(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of a map of ``height`` × ``width`` pixels."""

    top: int
    bottom: int
    left: int
    right: int
    height: int
    width: int

    def grow(self, margin: int) -> Region:
        """The region and ``margin`` more pixels on each side, as far as the map goes."""
        return self._replace(
            top=max(0, self.top - margin),
            bottom=min(self.height, self.bottom + margin),
            left=max(0, self.left - margin),
            right=min(self.width, self.right + margin),
        )

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
        return Padding(
            left=reach - (self.left - outer.left),
            right=reach - (outer.right - self.right),
            top=reach - (self.top - outer.top),
            bottom=reach - (outer.bottom - self.bottom),
        )


def tiles(height: int, width: int, *, rows: int, columns: int) -> Iterator[Region]:
    """Cut a map into regions of ``rows`` × ``columns`` pixels, the last ones smaller, row by row."""
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield Region(top, min(height, top + rows), left, min(width, left + columns), height, width)


NO_PADDING = Padding(0, 0, 0, 0)


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
    if padding.left != padding.right:
        x = F.pad(x, (padding.left, padding.right, 0, 0))
        padding = padding._replace(left=0, right=0)
    # Whole rows too many are cheaper than a padded copy, and what is left without them is contiguous.
    rows = max(padding.top, padding.bottom)
    sides = [rows, padding.left]
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
