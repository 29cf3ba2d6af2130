"""Rectangles of a picture."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Region(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of a picture of ``height`` × ``width`` pixels."""

    top: int
    bottom: int
    left: int
    right: int
    height: int
    width: int

    def shifted(self, origin: Region) -> Region:
        """Convert this region from coordinates within ``origin`` to coordinates of the picture that contains it."""
        rows, columns = origin.top, origin.left
        top, bottom, left, right = self[:4]
        return origin._replace(top=top + rows, bottom=bottom + rows, left=left + columns, right=right + columns)

    def of(self, whole: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch rows columns"]:
        """Return this region of a whole picture, as a view."""
        return whole[..., self.top : self.bottom, self.left : self.right]
