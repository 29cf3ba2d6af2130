"""Differences of pixels."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def l1_loss(restored: Float[Tensor, "b c h w"], clean: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Return the mean absolute difference, eq. 13."""
    return F.l1_loss(restored, clean)


def l2_loss(restored: Float[Tensor, "b c h w"], clean: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Return the mean squared difference, eq. 14."""
    return F.mse_loss(restored, clean)


def error_in_db(
    restored: Float[Tensor, "b c h w"], clean: Float[Tensor, "b c h w"], *, floor: float
) -> Float[Tensor, " b"]:
    """Return 10·log10 of each picture's mean squared error plus ``floor``².

    Without a floor, it is the negative PSNR in dB.

    Args:
        restored: pictures in [0, 1].
        clean: pictures in [0, 1].
        floor: an error that hardly matters, in levels of 8 bits. Without one, a perfect picture outweighs all others.
    """
    squared = (restored - clean).square().mean(dim=(1, 2, 3))
    return 10 * (squared + (floor / 255) ** 2).log10()


def psnr_loss(
    restored: Float[Tensor, "b c h w"], clean: Float[Tensor, "b c h w"], *, floor: float
) -> Float[Tensor, ""]:
    """Return the mean of :func:`error_in_db`, as the NAFNet of Chen et al. (ECCV 2022) learns, but with a floor."""
    return error_in_db(restored, clean, floor=floor).mean()
