"""Degrades a picture by a known amount, to show how well it can be restored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moceir.data.blur import Defocus
from moceir.data.degradations import Chain, Degradation, GaussianNoise, Jpeg
from moceir.pictures.picture import Picture, convert


def degrade(picture: Picture, *, blur: float = 0, noise: float = 0, jpeg: int | None = None) -> Picture:
    """Blur a picture, add noise, then compress it; the result is deterministic and keeps the picture's type.

    Args:
        picture: is not changed; without any degradation, it is returned itself.
        blur: the radius of Defocus, in pixels.
        noise: σ of Gaussian noise on the 0–255 scale, clipped and rounded.
        jpeg: quality, 1 to 100; None for no compression.
    """
    steps: list[Degradation] = []
    if blur > 0:
        steps.append(Defocus(radius=(blur, blur)))
    if noise > 0:
        steps.append(GaussianNoise(sigmas=[noise]))
    if jpeg is not None:
        steps.append(Jpeg(quality=(jpeg, jpeg)))
    if not steps:
        return picture
    display = convert(picture.pixels, np.dtype(np.float32))
    grey = display.ndim == 2
    planes = np.stack([display] * 3) if grey else np.ascontiguousarray(display.transpose(2, 0, 1))
    degraded, _ = Chain(steps=steps)(planes, np.random.default_rng(0))
    # For a grey picture any plane will do: each has noise of the right strength.
    kept = degraded[0] if grey else degraded.transpose(1, 2, 0)
    return replace(picture, pixels=convert(np.ascontiguousarray(kept.clip(0, 1)), picture.pixels.dtype))


def psnr(clean: Picture, other: Picture) -> float | None:
    """Return the PSNR in dB between two pictures of one size; None when they are equal."""
    single = np.dtype(np.float32)
    one, two = convert(clean.pixels, single), convert(other.pixels, single)
    if one.ndim != two.ndim:  # grey in one channel and in three
        one, two = (display if display.ndim == 3 else display[..., None] for display in (one, two))
    error = float(np.mean(np.square(one - two), dtype=np.float64))
    return None if error == 0 else -10 * float(np.log10(error))
