"""Multi-scale structural similarity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""The weight of each scale, the finest first (Wang, Simoncelli & Bovik, Asilomar 2003)."""
_C1, _C2 = 0.01**2, 0.03**2


def ms_ssim_loss(
    restored: Float[Tensor, "b c h w"], clean: Float[Tensor, "b c h w"], *, weights: Sequence[float] = WEIGHTS
) -> Float[Tensor, ""]:
    """Return 1 - MS-SSIM, eq. 12; in [0, 1]."""
    return 1 - ms_ssim(restored, clean, weights=weights).mean()


def ms_ssim(
    restored: Float[Tensor, "b c h w"], clean: Float[Tensor, "b c h w"], *, weights: Sequence[float] = WEIGHTS
) -> Float[Tensor, " b"]:
    """Return the multi-scale structural similarity, eq. 11, of pictures in [0, 1].

    Contrast and structure at every scale, over the windows that lie inside the picture; at the coarsest luminance too,
    over all pixels, the picture mirrored around it. The Gaussian window, of 11 pixels and σ 1.5 pixels, shrinks to the
    largest odd size that fits a scale, and a side of one pixel is not halved further, so pictures of every size have a
    value; where torchmetrics has one (sides of 176 and more), it is the same (with ``normalize="relu"``).

    A scale that is anticorrelated counts as 0, and with it the product. Its gradient is then 0 too, where that of the
    fractional power would be infinite, and times zero NaN.

    Args:
        restored: in [0, 1].
        clean: the same.
        weights: exponents of the scales, the finest first.
    """
    product = torch.ones_like(restored[:, 0, 0, 0])
    for scale, weight in enumerate(weights):
        if scale == len(weights) - 1:
            luminance, contrast_structure = _ssim(restored, clean, mirror=True)
            contrast_structure = luminance * contrast_structure
        else:
            _, contrast_structure = _ssim(restored, clean, mirror=False)
            halved = tuple(min(2, side) for side in restored.shape[-2:])
            restored, clean = F.avg_pool2d(restored, halved), F.avg_pool2d(clean, halved)
        value = contrast_structure.mean(dim=(1, 2, 3))
        positive = value > 0
        product = product * torch.where(positive, value, 1).pow(weight) * positive
    return product


def _ssim(
    x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"], *, mirror: bool
) -> tuple[Float[Tensor, "b c h2 w2"], Float[Tensor, "b c h2 w2"]]:
    """Return luminance, and contrast times structure, at every pixel or where the window lies inside the picture."""
    side = min(x.shape[-2:])
    size = min(11, 2 * side - 1 if mirror else side - 1 + side % 2)  # odd
    at = torch.arange(size, dtype=x.dtype, device=x.device) - size // 2
    window = torch.exp(-0.5 * (at / 1.5) ** 2)
    window = window / window.sum()
    if mirror:
        x, y = (F.pad(picture, [size // 2] * 4, mode="reflect") for picture in (x, y))
    maps = torch.cat([x, y, x * x, y * y, x * y], dim=1)
    channels = maps.shape[1]
    for shape in ((size, 1), (1, size)):
        maps = F.conv2d(maps, window.reshape(1, 1, *shape).expand(channels, 1, *shape), groups=channels)
    mean_x, mean_y, square_x, square_y, both = maps.chunk(5, dim=1)
    # Not clamped: rounding makes a constant's variance slightly negative, and of two equal pictures the covariance too.
    variances = square_x - mean_x**2 + square_y - mean_y**2
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return luminance, (2 * (both - mean_x * mean_y) + _C2) / (variances + _C2)
