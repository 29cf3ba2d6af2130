"""Simulates blur from a moving camera and moving objects: averages sharp pictures along their paths.

The blur of GoPro (Nah et al., CVPR 2017) and REDS (CVPRW 2019) was made in this way, from frames of a high-speed
camera. :class:`moceir.data.blur.MotionBlur` convolves the whole picture with one kernel. Here the camera also rotates
and zooms, regions move independently, and highlights that were brighter than white leave bright traces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from moceir.data.blur import checked_gamma, random_path
from moceir.data.degradations import checked_probability, checked_range

_STEPS = 97  # number of points of a path, from which frames are chosen; odd, so that one lies in the middle
_MOST_FRAMES = 21
_CELL = 64  # approximate distance in pixels between extrema of the random field that outlines moving regions
_WHITE = 0.98  # a pixel whose channels all exceed this display value may have been clipped


class Shake:
    """Simulates a camera that moves and rotates during the exposure. The clean picture shows the exposure's middle.

    Args:
        length: range of the shift's extent in pixels, which is twice the largest distance from the position at the
            middle of the exposure.
        shake: range of how much the path bends, see :func:`moceir.data.blur.random_path`.
        turn: range of the rotation's extent in degrees; the centre is the picture's middle.
        zoom: range of the zoom's extent; 0.02 means a factor from about 0.99 to 1.01.
        moving: probability that a region of the picture moves along its own path.
        glare: range of the additional brightness of a white pixel; with 1, it was twice as bright as white.
        gamma: exponent from display values to light; 1 averages display values, as GoPro's ``blur`` does.
    """

    def __init__(
        self,
        *,
        length: Sequence[float] = (3, 31),
        shake: Sequence[float] = (0, 3),
        turn: Sequence[float] = (0, 2),
        zoom: Sequence[float] = (0, 0.02),
        moving: float = 0.3,
        glare: Sequence[float] = (0, 2),
        gamma: float = 2.2,
    ) -> None:
        self.length = checked_range("length", length)
        self.shake = checked_range("shake", shake)
        self.turn = checked_range("turn", turn)
        self.zoom = checked_range("zoom", zoom, most=1)
        self.moving = checked_probability("moving", moving)
        self.glare = checked_range("glare", glare)
        self.gamma = checked_gamma(gamma)
        self.margin = int(self.length[1] / 2) + 1  # covers shifts; rotation and zoom move a crop's corners little more

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        size = clean.shape[2], clean.shape[1]
        light = self._light(clean, rng.uniform(*self.glare))
        camera = self._draw_motion(size, rng)
        if rng.random() < self.moving:
            mask = moving_part(size, rng)
            camera, part = _in_step(camera, self._draw_motion(size, rng))
            pairs = zip(camera, part, strict=True)
            frames = (_paste(_warp(light, of), _warp(light, behind), _warp(mask, of)) for behind, of in pairs)
        else:
            (camera,) = _in_step(camera)
            frames = (_warp(light, motion) for motion in camera)
        total = np.zeros_like(light)
        for frame in frames:
            cv2.accumulate(frame, total)
        mean = (total / len(camera)).clip(0, 1)
        display = mean if self.gamma == 1 else cv2.pow(mean, 1 / self.gamma)
        return np.ascontiguousarray(display.transpose(2, 0, 1)), "motion"

    def _light(self, clean: np.ndarray, glare: float) -> np.ndarray:
        picture = cv2.merge(list(clean)).clip(0, None)
        light = picture if self.gamma == 1 else cv2.pow(picture, self.gamma)
        white = (clean.min(axis=0) - _WHITE).clip(0, 1 - _WHITE) / (1 - _WHITE)
        return light * (1 + glare * white[..., None])

    def _draw_motion(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Draw affine maps (_STEPS, 2, 3) from pixels at the exposure's middle to those at each step.

        The map of the middle step is the identity.
        """
        path = random_path(steps=_STEPS, shake=rng.uniform(*self.shake), rng=rng, dims=4)
        path -= path[_STEPS // 2]
        shift = path[:, :2] * rng.uniform(*self.length) / 2 / np.linalg.norm(path[:, :2], axis=1).max()
        extents = math.radians(rng.uniform(*self.turn)), rng.uniform(*self.zoom)
        turn, zoom = (path[:, 2:] * extents / 2 / np.abs(path[:, 2:]).max(axis=0)).T
        middle = (np.array(size) - 1) / 2
        maps = np.empty((_STEPS, 2, 3))
        maps[:, 0, 0] = maps[:, 1, 1] = np.exp(zoom) * np.cos(turn)
        maps[:, 1, 0] = np.exp(zoom) * np.sin(turn)
        maps[:, 0, 1] = -maps[:, 1, 0]
        maps[:, :, 2] = middle + shift - maps[:, :, :2] @ middle
        return maps


def moving_part(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw the mask of a random region with soft outlines: float32 (H, W) in [0, 1]; ``size`` is width and height."""
    cells = [math.ceil(side / _CELL) + 2 for side in reversed(size)]
    field = cv2.resize(rng.standard_normal(cells).astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    field = field - np.float32(rng.normal(0.3, 0.3))
    slope = 0.05  # approximate change of the field per pixel, which makes outlines one or two pixels wide
    return np.clip(0.5 + field / slope / 2, 0, 1)


def _in_step(*motions: np.ndarray) -> list[np.ndarray]:
    """Choose the same frames of all motions, evenly in time and about one pixel apart, including the middle one."""
    travel = max(np.linalg.norm(np.diff(maps[:, :, 2], axis=0), axis=1).sum() for maps in motions)
    frames = min(_MOST_FRAMES, 2 * math.ceil(travel / 2) + 1)
    chosen = np.linspace(0, _STEPS - 1, frames).round().astype(int)
    return [maps[chosen] for maps in motions]


def _paste(part: np.ndarray, onto: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return cv2.blendLinear(part, onto, mask, 1 - mask)


def _warp(picture: np.ndarray, motion: np.ndarray) -> np.ndarray:
    # For three channels of 168×168 on one CPU thread, OpenCV takes 0.24 ms and kornia's warp_affine 0.77 ms.
    size = picture.shape[1], picture.shape[0]
    return cv2.warpAffine(picture, motion, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
