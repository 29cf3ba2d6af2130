"""Puts back texture that a network took for noise: the part of the removed luminance that exceeds the noise.

The removed luminance is cut into bands by the undecimated ("à trous") wavelet transform with the cubic B-spline's
filter (Starck, Fadili, Murtagh, "The Undecimated Wavelet Decomposition and its Reconstruction", IEEE TIP 2007, section
III), and each band is soft-thresholded at a multiple of its own noise, measured by the median absolute deviation
(Donoho, "De-noising by soft-thresholding", IEEE TIT 1995). darktable's denoising offers the same remedy.
"""

from __future__ import annotations

import cv2
import numpy as np

LEVELS = 4
#: In standard deviations of a band's noise. At 3 hardly anything comes back; below 2 noise does.
THRESHOLD = 2.0
_SPLINE = np.array([1, 4, 6, 4, 1], np.float32) / 16
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601
_MAD_OF_NORMAL = 0.6745


def detail(removed: np.ndarray) -> np.ndarray:
    """Extract from a removed luminance, float32 (H, W), what exceeds noise; omit the coarsest band, not texture."""
    found = np.zeros_like(removed)
    smooth = removed
    for level in range(LEVELS):
        kernel = np.zeros(4 * 2**level + 1, np.float32)
        kernel[:: 2**level] = _SPLINE
        smoother = cv2.sepFilter2D(smooth, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REPLICATE)
        band = smooth - smoother
        noise = float(np.median(np.abs(band))) / _MAD_OF_NORMAL
        found += np.sign(band) * np.maximum(np.abs(band) - THRESHOLD * noise, 0)
        smooth = smoother
    return found


def put_back(restored: np.ndarray, source: np.ndarray, amount: float) -> np.ndarray:
    """Add a share of the lost texture.

    Args:
        restored: float32 (H, W) or (H, W, 3) in [0, 1].
        source: what was restored, of the same shape and type.
        amount: 0 to 1.

    Returns:
        Of the same shape and type, not clamped.
    """
    removed = source - restored
    found = amount * detail(removed if removed.ndim == 2 else removed @ _LUMA)
    return restored + (found if restored.ndim == 2 else found[..., None])
