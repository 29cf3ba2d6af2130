"""Finds broken files in a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from moceir.data.pairs import Pair
from moceir.data.parallel import in_parallel
from moceir.data.pictures import Picture
from moceir.pictures.picture import PictureError


class Faults(NamedTuple):
    """Lists of messages, one for each broken file or pair."""

    unreadable: list[str]
    wrong_size: list[str]
    """Partners of different sizes, and pictures smaller than the crop."""


def find_faults(pairs: Sequence[Pair], *, crop: int, decode: bool, workers: int, description: str) -> Faults:
    """Check every file once.

    Args:
        pairs: the pairs whose files are checked.
        crop: the minimum height and width in pixels.
        decode: whether to decode every picture completely, instead of reading only its header and its end.
        workers: number of threads.
        description: text beside the progress bar.
    """

    def read_size(picture: Picture) -> tuple[int, int] | PictureError:
        try:
            return picture.open().shape[:2] if decode else picture.size()
        except PictureError as error:
            return error

    files = dict.fromkeys((pair.clean, pair.degraded) for pair in pairs)  # tiles share files
    pictures = list(dict.fromkeys(picture for partners in files for picture in partners if picture))
    read = dict(zip(pictures, in_parallel(read_size, pictures, workers=workers, description=description), strict=True))
    sizes = {picture: seen for picture, seen in read.items() if not isinstance(seen, PictureError)}

    wrong = []
    for clean, degraded in files:
        pair = [picture for picture in (degraded, clean) if picture in sizes]
        if len({sizes[picture] for picture in pair}) > 1:
            wrong.append(" but ".join(f"{picture} is {_shown(sizes[picture])}" for picture in pair))
        wrong += [
            f"{picture} is {_shown(sizes[picture])}, smaller than the crop of {crop}"
            for picture in pair
            if min(sizes[picture]) < crop
        ]
    return Faults([str(seen) for seen in read.values() if isinstance(seen, PictureError)], list(dict.fromkeys(wrong)))


def _shown(size: tuple[int, int]) -> str:
    return f"{size[1]}×{size[0]}"
