"""A decoded picture and its metadata."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from moceir.pictures import exif

AlphaKind = Literal["straight", "premultiplied", "unspecified"]


class PictureError(ValueError):
    """A file that cannot be read as a picture, or a picture that cannot be written; the message names it."""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """A file's metadata, as bytes in their standard forms."""

    exif: bytes | None = None
    """A TIFF structure, as in the Exif standard, without the prefix that JPEG files give it."""
    xmp: bytes | None = None
    profile: bytes | None = None
    """The ICC profile of the pixels' values."""
    resolution: tuple[float, float] | None = None
    """Pixels per inch, across and down."""
    native: tuple[tuple[str, object], ...] = ()
    """(format, block): metadata that only a file of the same format can hold, in its own form."""

    def blocks(self, format: str) -> list[Any]:
        """The native blocks of one format."""
        return [block for name, block in self.native if name == format]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture: all of a file, a frame of an animation, or a page of a TIFF; upright, whatever its orientation was.

    The values are the file's own, in the colour space of its profile (see docs/decisions/013).
    """

    pixels: np.ndarray
    """(H, W) grey or (H, W, 3) RGB; uint8, uint16, or float32 or float64 in [0, 1]."""
    alpha: np.ndarray | None = None
    """(H, W), transparency in the type ``depth``."""
    alpha_kind: AlphaKind = "straight"
    """How the file stores colours beside alpha; ``pixels`` are never premultiplied. Unspecified: a TIFF's channel."""
    depth: np.dtype
    """The type of the file's values: that of ``pixels``, except for premultiplied colours, which are float32 here."""
    bits: int
    """Bits of the file's values: 10 and 12 are scaled to 16 here, 1 to 4 to 8."""
    metadata: Metadata = Metadata()
    duration: float | None = None
    """A frame's duration in milliseconds."""
    loop: int | None = None
    """The number of times that an animation plays; 0 is forever, None once."""
    warnings: tuple[str, ...] = ()
    """One phrase for each property of the file that was not kept."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.pixels.shape[:2]
        return height, width


def highest(dtype: np.dtype) -> int:
    """Return the value of white: 255, 65535, or 1 for floats."""
    return int(np.iinfo(dtype).max) if dtype.kind == "u" else 1


def convert(samples: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Convert values to another type, scaled and rounded to nearest; return the same array if it has that type."""
    if samples.dtype == dtype:
        return samples
    if samples.dtype == np.uint8 and dtype == np.uint16:
        return samples.astype(np.uint16) * 257  # exact
    exact: np.ndarray = samples.astype(np.float64 if dtype.itemsize > 2 else np.float32)
    exact = exact / highest(samples.dtype)
    if dtype.kind == "f":
        return exact.astype(dtype)
    return np.rint(exact.clip(0, 1) * highest(dtype)).astype(dtype)


def widen(samples: np.ndarray, bits: int) -> np.ndarray:
    """Scale integers of a number of bits to the 8 or 16 of their type."""
    white = highest(samples.dtype)
    return samples if white == 2**bits - 1 else np.rint(samples * (white / (2**bits - 1))).astype(samples.dtype)


def turn(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (H, W, …) as the Exif orientation, 1 to 8, says it should be shown."""
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return np.ascontiguousarray(samples)


def upright(picture: Picture, orientation: int | None = None) -> Picture:
    """Apply the orientation, and reset it in the metadata.

    Args:
        orientation: the format's own; None for the Exif block's.
    """
    about = picture.metadata
    if orientation is None:
        orientation = exif.orientation(about.exif) if about.exif else 1
    about = replace(
        about,
        exif=exif.upright(about.exif, turned=orientation >= 5) if about.exif else None,
        xmp=exif.upright_xmp(about.xmp) if about.xmp else None,
        resolution=about.resolution[::-1] if about.resolution and orientation >= 5 else about.resolution,
    )
    if orientation == 1:
        return replace(picture, metadata=about)
    return replace(
        picture,
        pixels=turn(picture.pixels, orientation),
        alpha=None if picture.alpha is None else turn(picture.alpha, orientation),
        metadata=about,
    )
