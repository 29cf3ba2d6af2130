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
