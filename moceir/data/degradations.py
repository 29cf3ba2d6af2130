"""Synthetic degradations: clean (3, H, W) float32 in [0, 1] -> degraded, of the same shape.

Each is a callable ``(clean, rng) -> (degraded, task)``; everything random comes from the NumPy generator it is
given. Noise is neither clipped nor rounded, as is usual for denoising benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Degradation = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, str]]


class GaussianNoise:
    """Additive white Gaussian noise, its σ drawn from ``sigmas`` (on the 0–255 scale) for each picture."""

    def __init__(self, *, sigmas: Sequence[float]) -> None:
        self.sigmas = tuple(sigmas)

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        sigma = rng.choice(self.sigmas) / 255
        return clean + np.float32(sigma) * rng.standard_normal(clean.shape, dtype=np.float32), "gaussian"


class PoissonNoise:
    """Photon noise: Poisson(clean · scale) / scale, so ``scale`` is the mean photon count of white."""

    def __init__(self, *, scale: float) -> None:
        self.scale = scale

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        return (rng.poisson(clean * self.scale) / self.scale).astype(np.float32), "poisson"


class OneOf:
    """One of several degradations, drawn for each picture with the given weights (equal when None)."""

    def __init__(self, *, choices: Sequence[Degradation], weights: Sequence[float] | None = None) -> None:
        self.choices = tuple(choices)
        relative = np.ones(len(self.choices)) if weights is None else np.asarray(weights, dtype=float)
        self.probabilities = relative / relative.sum()

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        choice = self.choices[rng.choice(len(self.choices), p=self.probabilities)]
        return choice(clean, rng)
