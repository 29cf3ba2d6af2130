"""Differences of spectra."""

from __future__ import annotations

import torch
from torch import Tensor


def frequency_loss(restored: Tensor, clean: Tensor, *, norm: str = "backward") -> Tensor:
    """Return the mean absolute difference of the real and imaginary parts of the spectra, eq. 15.

    Args:
        restored: (B, C, H, W).
        clean: the same.
        norm: of the transform: ``backward`` does not scale it, ``ortho`` divides by √(HW), ``forward`` by HW.

    Returns:
        A scalar. Of a real picture half the spectrum says all; that half is what is averaged.
    """
    spectrum = torch.fft.rfft2(restored - clean, norm=norm)  # linear, so one transform of the difference will do
    return torch.view_as_real(spectrum).abs().mean()
