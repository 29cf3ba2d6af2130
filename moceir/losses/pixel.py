"""Differences of pixels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def l1_loss(restored: Tensor, clean: Tensor) -> Tensor:
    """Return the mean absolute difference of two (B, 3, H, W), eq. 13; scalar."""
    return F.l1_loss(restored, clean)


def l2_loss(restored: Tensor, clean: Tensor) -> Tensor:
    """Return the mean squared difference of two (B, 3, H, W), eq. 14; scalar."""
    return F.mse_loss(restored, clean)
