"""A picture and its degraded self: what every dataset is made of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moceir.data.pictures import Picture, Window
from moceir.pictures.picture import ImageError


class Pair(NamedTuple):
    """A clean picture, or a window of it, and its degraded self."""

    clean: Picture
    degraded: Picture | None
    """None when it is made from the clean one as it is read."""
    name: str
    """Its path in the dataset, without suffix."""
    group: str
    """The scene or sequence it belongs to; training and held-out pictures share none."""
    window: Window | None = None
    """None for the whole picture."""

    def size(self) -> tuple[int, int]:
        """Height and width."""
        return (self.window.height, self.window.width) if self.window else self.clean.size()

    def open(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Clean and degraded pixels, each uint8 (H, W, 3) RGB, of equal size.

        Raises:
            ImageError: when one cannot be read, or their sizes differ.
        """
        clean = self.clean.open()
        degraded = self.degraded.open() if self.degraded else None
        if degraded is not None and degraded.shape != clean.shape:
            raise ImageError(
                f"{self.degraded}: {_shown(degraded)}, but {self.clean} is {_shown(clean)}; "
                "`moceir prepare check` lists all such pairs"
            )
        return self.cut(clean, degraded)

    def cut(self, clean: np.ndarray, degraded: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Whole pictures through its window."""
        if self.window is None:
            return clean, degraded
        return self.window.of(clean), None if degraded is None else self.window.of(degraded)


def _shown(image: np.ndarray) -> str:
    return f"{image.shape[1]}×{image.shape[0]}"
