"""Pairs of a clean picture and its degraded version, of which every dataset consists."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moceir.data.pictures import Picture, Window
from moceir.pictures.picture import PictureError


class Pair(NamedTuple):
    """A clean picture, or a window of it, and its degraded version."""

    clean: Picture
    degraded: Picture | None
    """None when a degradation is applied to the clean picture after it is read."""
    name: str
    """The picture's path in the dataset, without suffix."""
    group: str
    """The scene or sequence of the picture. Training and held-out pictures never share a group."""
    window: Window | None = None
    """None for the whole picture."""

    def size(self) -> tuple[int, int]:
        """Return height and width in pixels."""
        return (self.window.height, self.window.width) if self.window else self.clean.size()

    def open(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Read the clean and the degraded pixels, each uint8 (H, W, 3) RGB, of equal size.

        Raises:
            PictureError: when a picture cannot be read, or their sizes differ.
        """
        clean = self.clean.open()
        degraded = self.degraded.open() if self.degraded else None
        if degraded is not None and degraded.shape != clean.shape:
            raise PictureError(
                f"{self.degraded}: {_shown(degraded)}, but {self.clean} is {_shown(clean)}; "
                "`moceir prepare check` lists all such pairs"
            )
        return self.cut(clean, degraded)

    def cut(self, clean: np.ndarray, degraded: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Crop whole pictures to the pair's window."""
        if self.window is None:
            return clean, degraded
        return self.window.of(clean), None if degraded is None else self.window.of(degraded)


def _shown(picture: np.ndarray) -> str:
    return f"{picture.shape[1]}×{picture.shape[0]}"
