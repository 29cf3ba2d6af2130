"""Cuts pictures into squares once, so that training need not decode whole photographs for every crop."""

from __future__ import annotations

from pathlib import Path

from moceir.data.pairs import Pair
from moceir.data.parallel import in_parallel
from moceir.data.pictures import tiles
from moceir.data.sources import Listing, Source
from moceir.pictures.arrays import write_picture


def tile(
    source: Source, listing: Listing, folder: Path, *, size: int, stride: int, workers: int, description: str
) -> int:
    """Write squares of every picture as PNG, in the dataset's own layout. Existing squares are kept.

    Args:
        source: the dataset whose layout is used.
        listing: whole pictures.
        folder: the folder for the squares.
        size: side of the squares in pixels.
        stride: distance between squares in pixels; the last row and column end at the border.
        workers: number of threads.
        description: text beside the progress bar.

    Returns:
        The number of pairs of squares.

    Raises:
        PictureError: when a picture cannot be read, or differs in size from its partner.
        ValueError: when the layout has no names for squares.
    """

    def cut(pair: Pair) -> int:
        windows = list(tiles(*pair.size(), size=size, stride=stride))
        names = [source.tile_names(pair.name, number) for number in range(len(windows))]
        targets = [tuple(folder / f"{name}.png" for name in both if name) for both in names]
        if not all(target.exists() for both in targets for target in both):
            pictures = [picture for picture in pair.open() if picture is not None]
            for window, both in zip(windows, targets, strict=True):
                for picture, target in zip(pictures, both, strict=True):
                    if not target.exists():  # a clean picture may have several partners
                        write_picture(target, window.of(picture))
        return len(windows)

    return sum(in_parallel(cut, listing.pairs, workers=workers, description=description))
