"""Differences of pixels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def l1_loss(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute difference, eq. 13; (B, 3, H, W) twice -> scalar."""
    return F.l1_loss(restored, clean)


def l2_loss(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean squared difference, eq. 14; (B, 3, H, W) twice -> scalar."""
    return F.mse_loss(restored, clean)
