"""Blurs pictures by motion or defocus: draws a random kernel and convolves light with it.

:mod:`moceir.data.shake` handles movement that one kernel cannot represent.

Light is the display value raised to the power ``gamma``. With 2.2, the sum is over light, as on a sensor. With 1, it is
over display values, as in GoPro's ``blur`` (its ``blur_gamma`` uses 2.2; Nah et al., CVPR 2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from moceir.data.degradations import checked_range


class MotionBlur:
    """Simulates a camera that moves during the exposure.

    Args:
        length: range of the trajectory's extent in pixels, which is twice its largest distance from its centroid. For
            uniform movement in a straight line, the extent is the trajectory's length.
        shake: range of the velocity's random variation, see :func:`random_path`.
        gamma: exponent from display values to light, see the module's docstring.
    """

    def __init__(
        self, *, length: Sequence[float] = (3, 31), shake: Sequence[float] = (0, 3), gamma: float = 2.2
    ) -> None:
        self.length = checked_range("length", length)
        self.shake = checked_range("shake", shake)
        self.gamma = checked_gamma(gamma)
        self.margin = _motion_radius(self.length[1])

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        length, shake = rng.uniform(*self.length), rng.uniform(*self.shake)
        return convolve(clean, motion_kernel(length=length, shake=shake, rng=rng), gamma=self.gamma), "motion"


class Defocus:
    """Simulates a lens that is out of focus: blurs with a disc whose radius, in pixels, lies in ``radius``."""

    def __init__(self, *, radius: Sequence[float] = (1, 6), gamma: float = 2.2) -> None:
        self.radius = checked_range("radius", radius)
        self.gamma = checked_gamma(gamma)
        self.margin = _disc_radius(self.radius[1])

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        return convolve(clean, disc_kernel(rng.uniform(*self.radius)), gamma=self.gamma), "defocus"


def random_path(*, steps: int, shake: float, rng: np.random.Generator, dims: int = 2) -> np.ndarray:
    """Draw a smooth random path, float64 (steps, dims), at even times. Its origin and scale are arbitrary.

    The velocity is a random walk, so that movement has inertia, as in Boracchi & Foi (TIP 2012) and DeblurGAN (Kupyn
    et al., CVPR 2018). Unlike theirs, this path has no pull to the origin and no sudden jerks.

    Args:
        steps: number of points.
        shake: standard deviation, in each dimension, of the velocity's change from the first to the last point. The
            standard deviation of the first velocity is 1. With 0, the path is straight.
        rng: source of the randomness.
        dims: number of coordinates, which are independent of each other.
    """
    walk = np.cumsum(rng.standard_normal((steps, dims)), axis=0) / math.sqrt(steps)
    return np.cumsum(rng.standard_normal(dims) + shake * walk, axis=0)


def motion_kernel(*, length: float, shake: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the point spread function of a camera that moves along a random smooth trajectory.

    Args:
        length: extent of the trajectory in pixels, see :class:`MotionBlur`.
        shake: how much the trajectory bends, see :func:`random_path`.
        rng: source of the randomness.

    Returns:
        A kernel, float32 (K, K), K odd, that sums to 1 and has its centroid in the middle.
    """
    steps = 64 + 8 * math.ceil(length)  # the points are close enough to leave no gaps
    path = random_path(steps=steps, shake=shake, rng=rng)
    path -= path.mean(axis=0)
    path *= length / 2 / np.linalg.norm(path, axis=1).max()
    radius = _motion_radius(length)
    # Each point is distributed bilinearly over the four pixels around it, which preserves the sum and the centroid.
    share = np.maximum(0, 1 - np.abs(path[:, :, None] - np.arange(-radius, radius + 1)))
    return (np.einsum("ty,tx->yx", share[:, 0], share[:, 1]) / steps).astype(np.float32)


def disc_kernel(radius: float) -> np.ndarray:
    """Return a disc with a soft edge, its radius in pixels: float32 (K, K), K odd, that sums to 1."""
    across = np.arange(-_disc_radius(radius), _disc_radius(radius) + 1)
    disc = np.clip(radius + 0.5 - np.hypot(across[:, None], across), 0, 1)
    return (disc / disc.sum()).astype(np.float32)


def convolve(picture: np.ndarray, kernel: np.ndarray, *, gamma: float) -> np.ndarray:
    """Convolve light with a kernel of odd size. The border is padded by reflection.

    Args:
        picture: float32 (3, H, W) display values.
        kernel: float32 (K, K).
        gamma: exponent from display values to light.
    """
    # OpenCV takes 1.6 ms for three channels of 192×192 and a kernel of 31×31, on one thread of a CPU. kornia's
    # filter2d takes 9.1 ms and its fft_conv 6.8 ms; all results agree to within 1e-6.
    flipped = cv2.flip(kernel, -1)  # filter2D computes a correlation
    light = picture if gamma == 1 else np.maximum(picture, 0) ** np.float32(gamma)
    blurred = np.stack([cv2.filter2D(plane, -1, flipped, borderType=cv2.BORDER_REFLECT_101) for plane in light])
    # Rounding can turn black into -1e-8, which has no real root.
    return blurred if gamma == 1 else np.maximum(blurred, 0) ** np.float32(1 / gamma)


def _motion_radius(length: float) -> int:
    return int(length / 2) + 1


def _disc_radius(radius: float) -> int:
    return int(radius + 0.5)


def checked_gamma(gamma: float) -> float:
    """Return ``gamma``, the exponent from display values to light, if it is valid.

    Raises:
        ValueError: unless gamma is positive and finite.
    """
    if not 0 < gamma < math.inf:
        raise ValueError(f"gamma={gamma:g}: give 1 for display values, 2.2 for light")
    return gamma
