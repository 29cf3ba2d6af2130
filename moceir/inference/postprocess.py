"""Postprocessing: quantisation to 8 bits and the bilateral filter."""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor


def quantise(picture: Tensor) -> np.ndarray:
    """Clamp (3, H, W) to [0, 1] and convert it to uint8 (H, W, 3), rounded to nearest."""
    return (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def bilateral_filter(picture: np.ndarray) -> np.ndarray:
    """Smooth the network's result with a 3×3 bilateral filter (design document, eq. 17).

    The parameters are the document's: σ of 10 grey levels (of 255) and of 10 pixels.

    Args:
        picture: (H, W) grey or (H, W, 3), uint8, or float32 in [0, 1].

    Returns:
        Of the same shape and type; grey as it would be in three equal channels.
    """
    if picture.ndim == 2:
        return bilateral_filter(np.dstack([picture] * 3))[..., 0]
    sigma = 10 if picture.dtype == np.uint8 else 10 / 255
    return cv2.bilateralFilter(np.ascontiguousarray(picture), d=3, sigmaColor=sigma, sigmaSpace=10)
