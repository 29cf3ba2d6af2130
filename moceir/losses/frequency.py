"""Differences of spectra."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def frequency_loss(
    restored: Float[Tensor, "b c h w"], clean: Float[Tensor, "b c h w"], *, norm: str = "backward"
) -> Float[Tensor, ""]:
    """Return the mean absolute difference of the real and imaginary parts of the spectra, eq. 15.

    Half the spectrum of a real picture determines the other half, so the mean is over one half.

    Args:
        restored: in [0, 1].
        clean: the same.
        norm: of the transform: ``backward`` does not scale it, ``ortho`` divides by √(HW), ``forward`` by HW.
    """
    spectrum = torch.fft.rfft2(restored - clean, norm=norm)  # linear, so one transform of the difference will do
    return torch.view_as_real(spectrum).abs().mean()
