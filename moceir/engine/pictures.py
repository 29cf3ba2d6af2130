"""The engine's access to a picture: it reads and writes regions, so the picture need not be in memory as floats."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from moceir.engine.regions import Region
from moceir.networks.layers import channels_last

Read = Callable[[Region], Float[Tensor, "1 3 h w"]]
"""Returns a region of a picture, float32 in [0, 1]."""

Write = Callable[[Region, Float[Tensor, "1 3 h w"]], None]
"""Takes a region of a picture, not clamped."""


class ContinuedPicture:
    """A picture padded by repeating its last row and column."""

    def __init__(self, read: Read, height: int, width: int, padded: tuple[int, int]) -> None:
        self.source = read
        self.size = height, width
        self.padded = padded

    def read(self, top: int, bottom: int) -> Float[Tensor, "1 3 {bottom-top} w"]:
        """Return rows ``top`` to ``bottom``."""
        height, width = self.size
        inside = Region(min(top, height - 1), min(bottom, height), 0, width, height, width)
        part = self.source(inside)
        missing = (0, self.padded[1] - width, 0, bottom - top - part.shape[2])
        return channels_last(F.pad(part, missing, mode="replicate") if any(missing) else part)
