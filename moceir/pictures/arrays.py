"""Reads and writes picture files as uint8 RGB arrays, for training and evaluation."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from moceir.pictures.files import read_bytes, write_atomically
from moceir.pictures.formats import decode, encode
from moceir.pictures.picture import Picture, PictureError, convert

# The end of a complete file, except for what some cameras append.
_LAST_MARK = {"PNG": b"IEND", "JPEG": b"\xff\xd9", "MPO": b"\xff\xd9"}
_TAIL = 4096
_EXIF_ORIENTATION = 274


def read_picture(path: Path) -> np.ndarray:
    """Read a picture as uint8 (H, W, 3) RGB.

    Its orientation is applied, grey becomes RGB, deeper pictures are rounded to 8 bits, transparency is left out, and
    the values are the file's own, whatever its colour profile.

    Raises:
        PictureError: when the file is missing, empty or damaged, or holds several pictures.
    """
    return decode_picture(read_bytes(path), str(path))


def decode_picture(data: bytes, name: str) -> np.ndarray:
    """Like :func:`read_picture`, from a file's content; error messages use ``name``."""
    pictures = decode(data, name)
    if len(pictures) > 1:
        raise PictureError(f"{name}: holds {len(pictures)} pictures, and one is expected")
    pixels = convert(pictures[0].pixels, np.dtype(np.uint8))
    return np.dstack([pixels] * 3) if pixels.ndim == 2 else pixels


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB in the format of the file's suffix, whole or not at all.

    Folders are made as needed. JPEG quality is 95, WebP is lossless.

    Raises:
        PictureError: when moceir cannot write the suffix's format or the file.
    """
    data, _ = encode([Picture(pixels=picture, depth=picture.dtype, bits=8)], path)
    try:
        write_atomically(path, data)
    except OSError as error:
        raise PictureError(f"{path}: could not be written ({error.strerror})") from error


def picture_size(path: Path) -> tuple[int, int]:
    """Return height and width as :func:`read_picture` gives them, from the header if the file looks complete.

    A truncated PNG, JPEG or BMP is recognised without decoding. Files that look incomplete, and all other formats,
    are decoded.

    Raises:
        PictureError: as :func:`read_picture`.
    """
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pictures that Pillow finds large; decoding has a limit of its own
            with Image.open(file) as picture:
                width, height = picture.size
                turned = picture.getexif().get(_EXIF_ORIENTATION, 1) > 4
                kind = str(picture.format)
            if _looks_whole(file, kind):
                return (width, height) if turned else (height, width)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        pass  # decoding reports what is wrong, if anything
    height, width = read_picture(path).shape[:2]
    return height, width


def _looks_whole(file: BinaryIO, kind: str) -> bool:
    length = file.seek(0, os.SEEK_END)
    if kind == "BMP":  # its header says how long it is
        file.seek(2)
        return length >= int.from_bytes(file.read(4), "little")
    if kind not in _LAST_MARK:
        return False
    file.seek(-min(_TAIL, length), os.SEEK_END)
    return _LAST_MARK[kind] in file.read()
