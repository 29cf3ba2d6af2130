"""Pictures in files or in memory, and windows of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from moceir.extras import require
from moceir.pictures.arrays import picture_size, read_picture
from moceir.pictures.picture import PictureError


class Window(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, picture: np.ndarray) -> np.ndarray:
        """Return a view of an array (H, W, …) that is cropped to the window."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]


def tiles(height: int, width: int, *, size: int, stride: int) -> Iterator[Window]:
    """Yield square windows, row by row, that cover a picture. The last row and column end at the picture's border.

    Along a side that is shorter than ``size``, windows have the length of that side.
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
        """Return height and width in pixels, if possible without decoding."""

    def open(self) -> np.ndarray:
        """Return the pixels; when they need no decoding, as a view of mapped memory."""


class PictureFile(NamedTuple):
    """A picture in a file of its own."""

    path: str

    def __str__(self) -> str:
        return self.path

    def size(self) -> tuple[int, int]:
        return picture_size(Path(self.path))

    def open(self) -> np.ndarray:
        return read_picture(Path(self.path))


class ArrayPicture(NamedTuple):
    """A picture in memory."""

    pixels: np.ndarray
    name: str = "a picture in memory"

    def __str__(self) -> str:
        return self.name

    def size(self) -> tuple[int, int]:
        height, width = self.pixels.shape[:2]
        return height, width

    def open(self) -> np.ndarray:
        return self.pixels


class MatBlock(NamedTuple):
    """A picture in a MATLAB array, identified by its index in the flattened leading dimensions."""

    path: str
    number: int

    def __str__(self) -> str:
        return f"{self.path}:{self.number}"

    def size(self) -> tuple[int, int]:
        height, width = self.open().shape[:2]
        return height, width

    def open(self) -> np.ndarray:
        return mat_blocks(self.path)[self.number]


@lru_cache(maxsize=2)  # one degraded and one clean file, because the files are large
def mat_blocks(path: str) -> np.ndarray:
    """Read the only array of pictures in a MATLAB file, uint8 (…, H, W, 3), and reshape it to (N, H, W, 3).

    Raises:
        PictureError: when the file cannot be read, or does not hold exactly one such array.
        ValueError: when SciPy is missing.
    """
    require(f"{path}: a MATLAB file", "train", "scipy")
    from scipy.io import loadmat

    try:
        arrays = [np.asarray(value) for name, value in loadmat(path).items() if not name.startswith("__")]
    except Exception as error:  # SciPy raises many kinds of exceptions for broken files
        raise PictureError(f"{path}: not a readable MATLAB file ({error})") from error
    arrays = [array for array in arrays if array.dtype == np.uint8 and array.ndim >= 3 and array.shape[-1] == 3]
    if len(arrays) != 1:
        raise PictureError(f"{path}: holds {len(arrays)} arrays of 8-bit RGB pictures; exactly one is expected")
    return arrays[0].reshape(-1, *arrays[0].shape[-3:])
