"""One picture, wherever it is kept, and windows of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from moceir.extras import require
from moceir.pictures.arrays import image_size, read_image
from moceir.pictures.picture import ImageError


class Window(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """A view of (H, W, …) through the window."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


def tiles(height: int, width: int, *, size: int, stride: int) -> Iterator[Window]:
    """Square windows, row by row, that cover a picture; the last row and column end at its border.

    A side shorter than ``size`` is covered by one window of its length.
    """
    for top in _starts(height, size, stride):
        for left in _starts(width, size, stride):
            yield Window(top, left, min(size, height), min(size, width))


def _starts(length: int, size: int, stride: int) -> list[int]:
    last = max(0, length - size)
    return [*range(0, last, stride), last]


class Picture(Protocol):
    """Something that holds a uint8 (H, W, 3) RGB picture."""

    def size(self) -> tuple[int, int]:
        """Height and width, without decoding where that can be avoided."""

    def open(self) -> np.ndarray:
        """The pixels; a view of mapped memory where they need no decoding."""


class ImageFile(NamedTuple):
    """A picture in a file of its own."""

    path: str

    def __str__(self) -> str:
        return self.path

    def size(self) -> tuple[int, int]:
        return image_size(Path(self.path))

    def open(self) -> np.ndarray:
        return read_image(Path(self.path))


class ArrayPicture(NamedTuple):
    """A picture in memory."""

    image: np.ndarray
    name: str = "a picture in memory"

    def __str__(self) -> str:
        return self.name

    def size(self) -> tuple[int, int]:
        height, width = self.image.shape[:2]
        return height, width

    def open(self) -> np.ndarray:
        return self.image


class MatBlock(NamedTuple):
    """A picture in a MATLAB array, by its number among the leading dimensions."""

    path: str
    number: int

    def __str__(self) -> str:
        return f"{self.path}:{self.number}"

    def size(self) -> tuple[int, int]:
        height, width = self.open().shape[:2]
        return height, width

    def open(self) -> np.ndarray:
        return mat_blocks(self.path)[self.number]


@lru_cache(maxsize=2)  # a noisy and a clean file; they are large
def mat_blocks(path: str) -> np.ndarray:
    """The one array of pictures in a MATLAB file, (…, H, W, 3) bytes, as (N, H, W, 3).

    Raises:
        ImageError: when there is none, or more than one.
        ValueError: when SciPy is missing.
    """
    require(f"{path}: a MATLAB file", "train", "scipy")
    from scipy.io import loadmat

    try:
        arrays = [np.asarray(value) for name, value in loadmat(path).items() if not name.startswith("__")]
    except Exception as error:  # scipy raises many kinds on broken files
        raise ImageError(f"{path}: not a readable MATLAB file ({error})") from error
    arrays = [array for array in arrays if array.dtype == np.uint8 and array.ndim >= 3 and array.shape[-1] == 3]
    if len(arrays) != 1:
        raise ImageError(f"{path}: holds {len(arrays)} arrays of 8-bit RGB pictures; one is expected")
    return arrays[0].reshape(-1, *arrays[0].shape[-3:])
