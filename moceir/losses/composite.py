"""The weighted sum of all terms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from moceir.losses.balance import balance_loss
from moceir.losses.frequency import frequency_loss
from moceir.losses.perceptual import PerceptualLoss
from moceir.losses.pixel import l1_loss, l2_loss
from moceir.losses.structure import ms_ssim_loss
from moceir.networks.interface import Restoration

TERMS = ("l1", "perceptual", "ms_ssim", "l2", "frequency", "balance")


class LossBundle(nn.Module):
    """α·L1 + β·VGG + γ·MS-SSIM + λ·L2 + θ·frequency + η·auxiliary, eq. 16.

    Args:
        weights: one for each of :data:`TERMS`; a term of weight zero is not computed, and VGG-19 not loaded for it.
        perceptual: arguments of :class:`PerceptualLoss`.
        ms_ssim: arguments of :func:`ms_ssim_loss`.
        frequency: arguments of :func:`frequency_loss`.

    Raises:
        ValueError: when a weight is missing, unknown, negative or not finite, or all are zero.
    """

    def __init__(
        self,
        *,
        weights: Mapping[str, float],
        perceptual: Mapping[str, Any],
        ms_ssim: Mapping[str, Any],
        frequency: Mapping[str, Any],
    ) -> None:
        super().__init__()
        if set(weights) != set(TERMS) or not all(0 <= weight < math.inf for weight in weights.values()):
            raise ValueError(f"loss.weights={dict(weights)}: give each of {', '.join(TERMS)} a weight, zero for none")
        self.weights = {name: float(weight) for name, weight in weights.items() if weight}
        if not self.weights:
            raise ValueError("loss.weights: all are zero, so there is nothing to train")
        self.perceptual = PerceptualLoss(**perceptual) if "perceptual" in self.weights else None
        self._of_pictures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "l1": l1_loss,
            "ms_ssim": partial(ms_ssim_loss, **ms_ssim),
            "l2": l2_loss,
            "frequency": partial(frequency_loss, **frequency),
        }

    def forward(self, restoration: Restoration, clean: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its terms before they are weighted; scalars, computed in float32.

        Args:
            restoration: of the degraded pictures.
            clean: (B, 3, H, W) in [0, 1].
        """
        with torch.autocast(clean.device.type, enabled=False):
            restored, clean = restoration.image.float(), clean.float()
            terms = {}
            for name in self.weights:
                if name == "balance":
                    terms[name] = balance_loss(restoration)
                elif name == "perceptual" and self.perceptual is not None:
                    terms[name] = self.perceptual(restored, clean)
                else:
                    terms[name] = self._of_pictures[name](restored, clean)
        return torch.stack([weight * terms[name] for name, weight in self.weights.items()]).sum(), terms
