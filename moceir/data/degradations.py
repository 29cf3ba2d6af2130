"""Synthetic degradations: noise, JPEG, and ways to combine degradations.

As is usual for denoising benchmarks, noise is neither clipped nor rounded; :class:`Digitised` clips and rounds.
:mod:`moceir.data.camera` adds noise that a camera has developed. :mod:`moceir.data.blur` and :mod:`moceir.data.shake`
blur.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
import torch


class Degradation(Protocol):
    """Degrades a clean picture without changing its input."""

    @property
    def margin(self) -> int:
        """Number of pixels around a crop that the degradation needs for a correct border of the crop."""
        ...

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        """Degrade one picture.

        Args:
            clean: float32 (3, H, W) display values in [0, 1]; within a :class:`Chain`, noise may exceed that range.
            rng: source of all randomness.

        Returns:
            The degraded picture, float32 of the same shape, and the task's name.
        """
        ...


def checked_range(
    name: str, bounds: Sequence[float], *, least: float = 0, most: float = math.inf
) -> tuple[float, float]:
    """Return an argument's range (low, high) if it is valid.

    Raises:
        ValueError: unless ``least`` ≤ low ≤ high ≤ ``most`` and high is finite.
    """
    if len(bounds) != 2 or not least <= bounds[0] <= bounds[1] <= most or math.isinf(bounds[1]):
        raise ValueError(f"{name}={list(bounds)}: give [low, high] with {least:g} ≤ low ≤ high ≤ {most:g}")
    return bounds[0], bounds[1]


def checked_probability(name: str, probability: float) -> float:
    """Return an argument's probability if it is valid.

    Raises:
        ValueError: outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"{name}={probability:g}: give a probability from 0 to 1")
    return probability


class GaussianNoise:
    """Adds white Gaussian noise. For each picture, σ is drawn from ``sigmas``, on the 0–255 scale."""

    margin = 0

    def __init__(self, *, sigmas: Sequence[float]) -> None:
        if not sigmas or not all(0 <= sigma < math.inf for sigma in sigmas):
            raise ValueError(f"sigmas={list(sigmas)}: give at least one σ, on the 0–255 scale; none may be negative")
        self.sigmas = tuple(sigmas)

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        return _add_gaussian(clean, rng.choice(self.sigmas) / 255, rng), "gaussian"


class GaussianNoiseRange:
    """Adds white Gaussian noise. σ is drawn uniformly from ``sigma`` = (low, high), on the 0–255 scale."""

    margin = 0

    def __init__(self, *, sigma: Sequence[float]) -> None:
        self.sigma = checked_range("sigma", sigma)

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        return _add_gaussian(clean, rng.uniform(*self.sigma) / 255, rng), "gaussian"


def _add_gaussian(clean: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise whose σ is on the 0–1 scale."""
    return clean + np.float32(sigma) * rng.standard_normal(clean.shape, dtype=np.float32)


class PoissonNoise:
    """Adds photon noise: Poisson(clean · scale) / scale, where ``scale`` is the mean photon count of white."""

    margin = 0

    def __init__(self, *, scale: float) -> None:
        if not 0 < scale < math.inf:
            raise ValueError(f"scale={scale:g}: give the photon count of white; it must be above 0")
        self.scale = scale

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        photons = np.maximum(clean, 0) * self.scale  # earlier steps of a chain may produce negative values
        return (rng.poisson(photons) / self.scale).astype(np.float32), "poisson"


class CameraNoise:
    """Adds sensor noise: Gaussian in linear light, with variance shot · signal + read (Foi et al., TIP 2008).

    :func:`draw_sensor_noise` draws shot and read noise for a signal before white balance, where white is 1. White
    balance multiplies red and blue by their gains, so a channel's variance becomes gain · shot · signal + gain² · read.
    Display values are sRGB. Demosaicking and colour correction, which correlate noise between neighbours and channels,
    are not simulated here; :class:`moceir.data.camera.Camera` simulates them.

    Args:
        shot: range of the variance per unit of signal. The default comes from Brooks et al., CVPR 2019.
        red_gain: range of the red channel's white balance gain. The default comes from that paper's code.
        blue_gain: range of the blue channel's white balance gain. The default comes from that paper's code.
    """

    margin = 0

    def __init__(
        self,
        *,
        shot: Sequence[float] = (1e-4, 0.012),
        red_gain: Sequence[float] = (1.9, 2.4),
        blue_gain: Sequence[float] = (1.5, 1.9),
    ) -> None:
        self.shot = checked_range("shot", shot, least=1e-9)
        self.red_gain = checked_range("red_gain", red_gain)
        self.blue_gain = checked_range("blue_gain", blue_gain)

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb  # takes 0.15 s to import, so only where needed

        shot, read = draw_sensor_noise(self.shot, rng)
        gain = np.array([[[rng.uniform(*self.red_gain)]], [[1]], [[rng.uniform(*self.blue_gain)]]], np.float32)
        light = rgb_to_linear_rgb(torch.from_numpy(clean)).numpy()
        variance = gain * np.float32(shot) * np.maximum(light, 0) + gain**2 * np.float32(read)
        noisy = light + np.sqrt(variance) * rng.standard_normal(clean.shape, dtype=np.float32)
        # Below black, kornia extends the curve linearly, so the noise keeps a mean of zero in linear light.
        return linear_rgb_to_rgb(torch.from_numpy(noisy)).numpy(), "camera"


def draw_sensor_noise(shot: tuple[float, float], rng: np.random.Generator) -> tuple[float, float]:
    """Draw the variances of shot noise, per unit of signal, and of read noise; white is 1.

    Shot noise is log-uniform within its range. Read noise follows from it: ln read = 2.18 ln shot + 1.20 + N(0, 0.26²).
    Brooks et al. fitted this to the cameras of DND (Unprocessing Pictures for Learned Raw Denoising, CVPR 2019, section
    3.1).
    """
    log_shot = rng.uniform(*np.log(shot))
    log_read = 2.18 * log_shot + 1.20 + 0.26 * rng.standard_normal()
    return math.exp(log_shot), math.exp(log_read)


_CHROMA_SAMPLING = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}


class Jpeg:
    """Compresses as JPEG, with a quality drawn from ``quality`` = (low, high); the result is clipped, with 8 bits.

    Args:
        quality: range of libjpeg's quality, 1–100, both ends included.
        chroma: one or several of ``4:2:0``, ``4:2:2`` and ``4:4:4``; one is drawn for each picture. Cameras and
            websites mostly keep a quarter of the colour samples (``4:2:0``); editors keep all (``4:4:4``).
        anywhere: start the grid of blocks at a random pixel instead of the corner, as in a picture that was cropped
            after compression. Otherwise, a network that trains on crops could learn where the blocks start.
    """

    margin = 0

    def __init__(self, *, quality: Sequence[int], chroma: Sequence[str] = ("4:2:0",), anywhere: bool = False) -> None:
        low, high = checked_range("quality", quality, least=1, most=100)
        if not chroma or not set(chroma) <= _CHROMA_SAMPLING.keys():
            raise ValueError(f"chroma={list(chroma)}: give a list of {', '.join(_CHROMA_SAMPLING)}")
        self.quality = int(low), int(high)
        self.chroma = tuple(chroma)
        self.anywhere = anywhere

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        # This uses the codec itself. kornia has a differentiable model of it, but no gradient is needed here.
        quality = int(rng.integers(self.quality[0], self.quality[1] + 1))
        top, left = rng.integers(16, size=2) if self.anywhere else (0, 0)  # 4:2:0 codes squares of 16
        chroma = self.chroma[rng.integers(len(self.chroma))]
        pixels = _to_bytes(clean).transpose(1, 2, 0)[..., ::-1]
        pixels = np.pad(pixels, ((top, 0), (left, 0), (0, 0)), mode="edge")
        sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _CHROMA_SAMPLING[chroma]]
        _, file = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling])
        decoded = np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR_RGB))[top:, left:]
        return np.ascontiguousarray(decoded.transpose(2, 0, 1), dtype=np.float32) / 255, "jpeg"


class Resized:
    """Degrades a resized picture, resizes the change back, and adds it to the original picture.

    Noise becomes coarser or finer, and JPEG blocks no longer have eight pixels. Only the change is resized, so the
    picture itself stays sharp.

    Args:
        degradation: degradation of the resized picture.
        scale: range of the resized picture's sides relative to the original's, drawn log-uniformly. Below 1, the change
            is enlarged afterwards.
    """

    def __init__(self, *, degradation: Degradation, scale: Sequence[float]) -> None:
        self.degradation = degradation
        self.scale = checked_range("scale", scale, least=0.1, most=10)
        self.margin = math.ceil((degradation.margin + 2) / self.scale[0])  # interpolation needs two pixels

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        height, width = clean.shape[1:]
        scale = math.exp(rng.uniform(*np.log(self.scale)))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        picture = np.ascontiguousarray(clean.transpose(1, 2, 0))
        # Neither interpolation exceeds the range of values, as cubic interpolation would.
        resized = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA)
        resized = np.ascontiguousarray(resized.transpose(2, 0, 1))
        degraded, task = self.degradation(resized, rng)
        change = np.ascontiguousarray((degraded - resized).transpose(1, 2, 0))
        change = cv2.resize(change, (width, height), interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC)
        return clean + change.transpose(2, 0, 1), task


class OneOf:
    """Applies one of several degradations, drawn for each picture with the given weights (equal when None)."""

    def __init__(self, *, choices: Sequence[Degradation], weights: Sequence[float] | None = None) -> None:
        self.choices = tuple(choices)
        relative = np.ones(len(self.choices)) if weights is None else np.asarray(weights, dtype=float)
        if len(relative) != len(self.choices) or not (relative >= 0).all() or not 0 < relative.sum() < math.inf:
            raise ValueError(
                f"weights={weights} for {len(self.choices)} choices: give each choice one weight; none may be "
                "negative, and not all may be zero"
            )
        self.probabilities = relative / relative.sum()
        self.margin = max(choice.margin for choice in self.choices)

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        choice = self.choices[rng.choice(len(self.choices), p=self.probabilities)]
        return choice(clean, rng)


class Chain:
    """Applies several degradations one after another, each with its own probability (1 when None).

    The task's name lists the degradations that were applied, as in ``motion+camera+jpeg``. It is ``clean`` when none
    was applied, because a network should also see pictures that need no restoration. A chain without steps always
    leaves pictures clean.
    """

    def __init__(self, *, steps: Sequence[Degradation], probabilities: Sequence[float] | None = None) -> None:
        self.steps = tuple(steps)
        self.probabilities = (1.0,) * len(self.steps) if probabilities is None else tuple(probabilities)
        if len(self.probabilities) != len(self.steps) or not all(0 <= p <= 1 for p in self.probabilities):
            raise ValueError(f"probabilities={probabilities} for {len(self.steps)} steps: give each step one in [0, 1]")
        self.margin = sum(step.margin for step in self.steps)

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        degraded, tasks = clean.copy(), []
        for step, probability in zip(self.steps, self.probabilities, strict=True):
            if rng.random() < probability:
                degraded, task = step(degraded, rng)
                tasks.append(task)
        return degraded, "+".join(task for task in tasks if task != "clean") or "clean"


class Digitised:
    """Clips and rounds the result of a degradation, as a file with 8 bits would.

    Args:
        degradation: the degradation whose result is converted.
        clip: whether to clip to [0, 1].
        round: whether to round to multiples of 1/255; this requires ``clip``.

    Raises:
        ValueError: when ``round`` is set without ``clip``.
    """

    def __init__(self, *, degradation: Degradation, clip: bool, round: bool) -> None:
        if round and not clip:
            raise ValueError("round=True, clip=False: 8 bits cannot hold values outside [0, 1]; set clip=True too")
        self.degradation = degradation
        self.clip = clip
        self.round = round
        self.margin = degradation.margin

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        degraded, task = self.degradation(clean, rng)
        if self.round:
            return _to_bytes(degraded).astype(np.float32) / 255, task
        return np.clip(degraded, 0, 1) if self.clip else degraded, task


def _to_bytes(picture: np.ndarray) -> np.ndarray:
    """Clip values to [0, 1] and convert them to uint8."""
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
