"""Synthetic degradations: noise, JPEG, and ways to combine degradations.

Noise is neither clipped nor rounded, as is usual for denoising benchmarks; :class:`Digitised` does that. Noise that was
developed is in :mod:`moceir.data.camera`, blur in :mod:`moceir.data.blur` and :mod:`moceir.data.shake`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
import torch


class Degradation(Protocol):
    """What is done to a clean picture. It leaves its input as it is."""

    @property
    def margin(self) -> int:
        """How many pixels around a crop it must see for the crop's border to be right."""
        ...

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        """Degrade one picture.

        Args:
            clean: float32 (3, H, W) display values in [0, 1]; within a :class:`Chain` noise may leave that range.
            rng: everything random comes from it.

        Returns:
            The degraded picture, float32 of the same shape, and the task's name.
        """
        ...


def checked_range(
    name: str, bounds: Sequence[float], *, least: float = 0, most: float = math.inf
) -> tuple[float, float]:
    """A range (low, high) that an argument gives.

    Raises:
        ValueError: unless ``least`` ≤ low ≤ high ≤ ``most``.
    """
    if len(bounds) != 2 or not least <= bounds[0] <= bounds[1] <= most or math.isinf(bounds[1]):
        raise ValueError(f"{name}={list(bounds)}: give [low, high] with {least:g} ≤ low ≤ high ≤ {most:g}")
    return bounds[0], bounds[1]


def checked_probability(name: str, probability: float) -> float:
    """A probability that an argument gives.

    Raises:
        ValueError: outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"{name}={probability:g}: give a probability, 0 to 1")
    return probability


class GaussianNoise:
    """Additive white Gaussian noise, its σ drawn from ``sigmas`` (on the 0–255 scale) for each picture."""

    margin = 0

    def __init__(self, *, sigmas: Sequence[float]) -> None:
        if not sigmas or not all(0 <= sigma < math.inf for sigma in sigmas):
            raise ValueError(f"sigmas={list(sigmas)}: give at least one, none negative, on the 0–255 scale")
        self.sigmas = tuple(sigmas)

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        return _add_gaussian(clean, rng.choice(self.sigmas) / 255, rng), "gaussian"


class GaussianNoiseRange:
    """Additive white Gaussian noise, its σ drawn evenly from ``sigma`` = (low, high), on the 0–255 scale."""

    margin = 0

    def __init__(self, *, sigma: Sequence[float]) -> None:
        self.sigma = checked_range("sigma", sigma)

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        return _add_gaussian(clean, rng.uniform(*self.sigma) / 255, rng), "gaussian"


def _add_gaussian(clean: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """With σ on the 0–1 scale."""
    return clean + np.float32(sigma) * rng.standard_normal(clean.shape, dtype=np.float32)


class PoissonNoise:
    """Photon noise: Poisson(clean · scale) / scale, so ``scale`` is the mean photon count of white."""

    margin = 0

    def __init__(self, *, scale: float) -> None:
        if not 0 < scale < math.inf:
            raise ValueError(f"scale={scale:g}: give the photon count of white, above 0")
        self.scale = scale

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        photons = np.maximum(clean, 0) * self.scale  # what comes before in a chain may leave less than none
        return (rng.poisson(photons) / self.scale).astype(np.float32), "poisson"


class CameraNoise:
    """Noise of a sensor: Gaussian in linear light, its variance shot · signal + read (Foi et al., TIP 2008).

    Both are drawn by :func:`draw_sensor_noise`, where white is 1, before white balance. That multiplies red and blue by
    their gains, and so a channel's variance becomes gain · shot · signal + gain² · read. Display values are sRGB's.
    Demosaicking and colour correction, which correlate noise between neighbours and channels, are left out;
    :class:`moceir.data.camera.Camera` has them.

    Args:
        shot: range of the variance per unit of signal; the default is the paper's.
        red_gain: range of the red channel's white balance gain; the default is of the paper's code.
        blue_gain: the same for blue.
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
        from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb  # costs 0.15 s, which other commands need not pay

        shot, read = draw_sensor_noise(self.shot, rng)
        gain = np.array([[[rng.uniform(*self.red_gain)]], [[1]], [[rng.uniform(*self.blue_gain)]]], np.float32)
        light = rgb_to_linear_rgb(torch.from_numpy(clean)).numpy()
        variance = gain * np.float32(shot) * np.maximum(light, 0) + gain**2 * np.float32(read)
        noisy = light + np.sqrt(variance) * rng.standard_normal(clean.shape, dtype=np.float32)
        # kornia continues the curve below black with the slope it has there, so noise keeps its mean of zero in light.
        return linear_rgb_to_rgb(torch.from_numpy(noisy)).numpy(), "camera"


def draw_sensor_noise(shot: tuple[float, float], rng: np.random.Generator) -> tuple[float, float]:
    """Variances of shot noise, per unit of signal, and of read noise; white is 1.

    Shot is log-uniform within its range, and read noise goes with it: ln read = 2.18 ln shot + 1.20 + N(0, 0.26²), as
    fitted to the cameras of DND by Brooks et al. (Unprocessing Images for Learned Raw Denoising, CVPR 2019,
    section 3.1).
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
    """JPEG of a quality from ``quality`` = (low, high), 1–100, as libjpeg counts; clipped, 8 bits.

    Args:
        quality: range, both ends included.
        chroma: one or several of ``4:2:0``, ``4:2:2`` and ``4:4:4``; one is drawn for each picture. Cameras and the web
            mostly keep a quarter of the colour samples, editors all.
        anywhere: let the grid of blocks start at any pixel, as in a picture that was cut after compression, instead
            of in the corner. A network that learns from crops should not learn where in them the blocks are.
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
        # The codec itself: kornia has a differentiable model of it, which training on its results does not need.
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
    """What a degradation does to a picture of another size that is then resized to this one.

    Noise becomes coarser or finer, blocks of a JPEG no longer have eight pixels. Only the change is resized: the
    picture itself stays as sharp as it is.

    Args:
        degradation: of the resized picture.
        scale: range of that picture's sides, where those of this one are 1; drawn log-uniformly. Below 1 it was
            enlarged afterwards.
    """

    def __init__(self, *, degradation: Degradation, scale: Sequence[float]) -> None:
        self.degradation = degradation
        self.scale = checked_range("scale", scale, least=0.1, most=10)
        self.margin = math.ceil((degradation.margin + 2) / self.scale[0])  # interpolation sees two pixels

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        height, width = clean.shape[1:]
        scale = math.exp(rng.uniform(*np.log(self.scale)))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = np.ascontiguousarray(clean.transpose(1, 2, 0))
        # Neither leaves the range of values, as cubic interpolation would.
        resized = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA)
        resized = np.ascontiguousarray(resized.transpose(2, 0, 1))
        degraded, task = self.degradation(resized, rng)
        change = np.ascontiguousarray((degraded - resized).transpose(1, 2, 0))
        change = cv2.resize(change, (width, height), interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC)
        return clean + change.transpose(2, 0, 1), task


class OneOf:
    """One of several degradations, drawn for each picture with the given weights (equal when None)."""

    def __init__(self, *, choices: Sequence[Degradation], weights: Sequence[float] | None = None) -> None:
        self.choices = tuple(choices)
        relative = np.ones(len(self.choices)) if weights is None else np.asarray(weights, dtype=float)
        if len(relative) != len(self.choices) or not (relative >= 0).all() or not 0 < relative.sum() < math.inf:
            raise ValueError(
                f"weights={weights} of {len(self.choices)} choices: give one for each, none negative, not all zero"
            )
        self.probabilities = relative / relative.sum()
        self.margin = max(choice.margin for choice in self.choices)

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        choice = self.choices[rng.choice(len(self.choices), p=self.probabilities)]
        return choice(clean, rng)


class Chain:
    """Several degradations one after another, each with its own probability (1 when None).

    The task names those that were applied, as in ``motion+camera+jpeg``. It is ``clean`` when none was: a network
    should see some pictures that need no restoring. A chain of no steps always leaves pictures clean.
    """

    def __init__(self, *, steps: Sequence[Degradation], probabilities: Sequence[float] | None = None) -> None:
        self.steps = tuple(steps)
        self.probabilities = (1.0,) * len(self.steps) if probabilities is None else tuple(probabilities)
        if len(self.probabilities) != len(self.steps) or not all(0 <= p <= 1 for p in self.probabilities):
            raise ValueError(f"probabilities={probabilities} of {len(self.steps)} steps: give one in [0, 1] for each")
        self.margin = sum(step.margin for step in self.steps)

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        degraded, tasks = clean.copy(), []
        for step, probability in zip(self.steps, self.probabilities, strict=True):
            if rng.random() < probability:
                degraded, task = step(degraded, rng)
                tasks.append(task)
        return degraded, "+".join(task for task in tasks if task != "clean") or "clean"


class Digitised:
    """A degradation whose result is kept as a file keeps it.

    Args:
        degradation: what comes before.
        clip: to [0, 1].
        round: to multiples of 1/255, which only clipped values are.

    Raises:
        ValueError: when told to round but not to clip.
    """

    def __init__(self, *, degradation: Degradation, clip: bool, round: bool) -> None:
        if round and not clip:
            raise ValueError("round=True, clip=False: 8 bits hold nothing outside [0, 1]; set clip=True too")
        self.degradation = degradation
        self.clip = clip
        self.round = round
        self.margin = degradation.margin

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        degraded, task = self.degradation(clean, rng)
        if self.round:
            return _to_bytes(degraded).astype(np.float32) / 255, task
        return np.clip(degraded, 0, 1) if self.clip else degraded, task


def _to_bytes(image: np.ndarray) -> np.ndarray:
    """[0, 1], clipped -> uint8."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
