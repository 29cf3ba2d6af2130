"""Blur, by motion or by focus: a kernel drawn at random, and the convolution of light with it.

What moves in more ways than a kernel can say is in :mod:`moceir.data.shake`.

Light is display value to the power of ``gamma``. A sensor adds up light, for which 2.2 stands; 1 adds up display
values, as GoPro's ``blur`` does (its ``blur_gamma`` is 2.2; Nah et al., CVPR 2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from moceir.data.degradations import checked_range


class MotionBlur:
    """A camera that moves while it exposes.

    Args:
        length: range of the trajectory's extent in pixels: twice its furthest distance from its centroid, which of an
            even movement straight ahead is its length.
        shake: range of how far the velocity wanders, see :func:`random_path`.
        gamma: of light, see above.
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
    """A lens that focuses elsewhere: a disc of a radius from ``radius`` = (low, high), in pixels."""

    def __init__(self, *, radius: Sequence[float] = (1, 6), gamma: float = 2.2) -> None:
        self.radius = checked_range("radius", radius)
        self.gamma = checked_gamma(gamma)
        self.margin = _disc_radius(self.radius[1])

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        return convolve(clean, disc_kernel(rng.uniform(*self.radius)), gamma=self.gamma), "defocus"


def random_path(*, steps: int, shake: float, rng: np.random.Generator, dims: int = 2) -> np.ndarray:
    """A smooth walk, float64 (steps, dims), at even times; where it begins and how large it is means nothing.

    The velocity is a random walk, so that movement has inertia, as in Boracchi & Foi (TIP 2012) and DeblurGAN (Kupyn
    et al., CVPR 2018), with neither their pull to the origin nor their sudden jerks.

    Args:
        steps: how many points.
        shake: standard deviation of the velocity's change from first to last point, where that of the velocity at the
            first is 1 (in each dimension); 0 goes straight on.
        rng: decides the path.
        dims: how many coordinates, each independent of the others.
    """
    walk = np.cumsum(rng.standard_normal((steps, dims)), axis=0) / math.sqrt(steps)
    return np.cumsum(rng.standard_normal(dims) + shake * walk, axis=0)


def motion_kernel(*, length: float, shake: float, rng: np.random.Generator) -> np.ndarray:
    """Where light falls from a point, while the camera moves along a random smooth trajectory.

    Args:
        length: extent of the trajectory in pixels, see :class:`MotionBlur`.
        shake: how far it bends, see :func:`random_path`.
        rng: decides the trajectory.

    Returns:
        float32 (K, K), K odd, that sums to 1 and has its centroid in the middle.
    """
    steps = 64 + 8 * math.ceil(length)  # close enough together to leave no gaps
    path = random_path(steps=steps, shake=shake, rng=rng)
    path -= path.mean(axis=0)
    path *= length / 2 / np.linalg.norm(path, axis=1).max()
    radius = _motion_radius(length)
    # Each point is shared among the four pixels around it (bilinearly), which keeps the sum and the centroid.
    share = np.maximum(0, 1 - np.abs(path[:, :, None] - np.arange(-radius, radius + 1)))
    return (np.einsum("ty,tx->yx", share[:, 0], share[:, 1]) / steps).astype(np.float32)


def disc_kernel(radius: float) -> np.ndarray:
    """A disc of a radius in pixels with a soft edge: float32 (K, K), K odd, that sums to 1."""
    across = np.arange(-_disc_radius(radius), _disc_radius(radius) + 1)
    disc = np.clip(radius + 0.5 - np.hypot(across[:, None], across), 0, 1)
    return (disc / disc.sum()).astype(np.float32)


def convolve(image: np.ndarray, kernel: np.ndarray, *, gamma: float) -> np.ndarray:
    """The convolution of light with an odd kernel; beyond its border the picture goes on as its mirror image.

    Args:
        image: float32 (3, H, W) display values.
        kernel: float32 (K, K).
        gamma: display value to the power of this is light.
    """
    # OpenCV takes 1.6 ms for three channels of 192×192 and a kernel of 31×31, on one thread of a CPU; kornia's
    # filter2d 9.1 ms and fft_conv 6.8 ms, with the same result to within 1e-6.
    flipped = cv2.flip(kernel, -1)  # because filter2D correlates
    light = image if gamma == 1 else np.maximum(image, 0) ** np.float32(gamma)
    blurred = np.stack([cv2.filter2D(plane, -1, flipped, borderType=cv2.BORDER_REFLECT_101) for plane in light])
    # Rounding makes black -1e-8, of which there is no root.
    return blurred if gamma == 1 else np.maximum(blurred, 0) ** np.float32(1 / gamma)


def _motion_radius(length: float) -> int:
    return int(length / 2) + 1


def _disc_radius(radius: float) -> int:
    return int(radius + 0.5)


def checked_gamma(gamma: float) -> float:
    """What display values are raised to, to give light.

    Raises:
        ValueError: unless it is above 0.
    """
    if not 0 < gamma < math.inf:
        raise ValueError(f"gamma={gamma:g}: give 1 for display values, 2.2 for light")
    return gamma
