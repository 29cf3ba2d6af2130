"""The grid that JPEG leaves in a picture: what a router needs to tell a compressed picture from a soft one.

JPEG computes in squares of 8 pixels, or of 16 where it halves the colours' resolution, so across the squares' edges,
neighbouring pixels differ by more than elsewhere. The means and deviations of an encoder's maps hardly show it. So the
mean difference of neighbours is taken for each place modulo 16; the waves of this profile say how strong the grid is,
wherever it begins. The peaks in the spectrum of such differences are an old measure of JPEG's damage (Wang, Bovik, and
Evans, Blind measurement of blocking artifacts in images, ICIP 2000).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from moceir.networks.routes import Run
from moceir.networks.strips import Block, Strip, Sums

#: Pixels from one edge to the next edge of the same kind.
PERIOD = 16

#: The number of what is found: of three planes' columns and rows, the waves of 1 to 8 periods.
FOUND = 3 * 2 * PERIOD // 2

#: Differences that count for nothing, in units of the picture's range.
FLOOR = 1e-4

#: JPEG's luma and two chromas of red, green, and blue.
PLANES = ((0.299, 0.587, 0.114), (-0.1687, -0.3313, 0.5), (0.5, -0.4187, -0.0813))


class Grid(Block):
    """Finds how strong each wave of the neighbours' differences is, compared with their mean, as a logarithm.

    It reads the picture and doesn't change it.
    """

    reaches = (1, 0)
    alignment = PERIOD
    rewrites = False
    planes: Float[Tensor, "3 3 1 1"]
    waves: Float[Tensor, "16 16"]

    def __init__(self) -> None:
        super().__init__()
        angles = 2 * math.pi / PERIOD * torch.outer(torch.arange(PERIOD), torch.arange(1, PERIOD // 2 + 1))
        self.register_buffer("planes", torch.tensor(PLANES)[:, :, None, None], persistent=False)
        self.register_buffer("waves", torch.cat([angles.cos(), angles.sin()], dim=1), persistent=False)

    def forward(self, x: Float[Tensor, "b 3 h w"], run: Run) -> Float[Tensor, "b 3 h w"]:
        """Return the picture unchanged; bfloat16 would not show the grid."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x, run)

    def summarise(self, strip: Strip, known: list[Any]) -> tuple[Sums, None]:
        """Return the sums of neighbours' absolute differences by place, (B, 3, 2, 16), and the numbers of pairs."""
        above, below, _ = strip.halo
        x = F.conv2d(strip.x[:, :, above:].contiguous(), self.planes)  # sums along rows are faster plane by plane
        own = x[:, :, : x.shape[2] - below]
        across = (own[..., 1:] - own[..., :-1]).abs().sum(dim=2)
        down = (x[:, :, 1:] - x[:, :, :-1]).abs().sum(dim=3)
        pairs = (
            torch.ones(1, 1, one.shape[2], dtype=x.dtype, device=x.device) * length
            for one, length in ((across, own.shape[2]), (down, x.shape[3]))
        )
        return Sums((_by_place(across, down), _by_place(*pairs))), None

    def conclude(self, sums: Sums, known: list[Any], run: Run) -> None:
        """Tell the router what was found."""
        differences, pairs = sums
        count = pairs.sum(dim=3, keepdim=True)
        mean = differences.sum(dim=3, keepdim=True) / count
        excess = (differences - mean * pairs) * PERIOD / count
        cosines, sines = (excess.to(self.waves.dtype) @ self.waves).split(PERIOD // 2, dim=3)
        strength = (cosines * cosines + sines * sines).sqrt()
        run.found.append(((strength + FLOOR) / (mean.to(strength.dtype) + FLOOR)).log().flatten(1))

    def update(self, strip: Strip, known: list[Any]) -> Float[Tensor, "b 3 h w"]:
        """Return the picture unchanged."""
        return strip.halo.crop(strip.x)

    def matmul_macs(self, height: int, width: int) -> int:
        """Return the multiply-adds of the planes and of the waves."""
        return 9 * height * width + 2 * FOUND * PERIOD


def _by_place(across: Float[Tensor, "b c columns"], down: Float[Tensor, "b c rows"]) -> Float[Tensor, "b c 2 16"]:
    """Add what lies a multiple of the period apart."""
    padded = (F.pad(one, (0, -one.shape[2] % PERIOD)) for one in (across, down))
    return torch.cat([one.reshape(*one.shape[:2], -1, PERIOD).sum(dim=2, keepdim=True) for one in padded], dim=2)
