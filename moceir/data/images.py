"""Picture files -> uint8 RGB arrays, and back."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
_WITH_ALPHA = frozenset({".png", ".webp", ".tif", ".tiff"})
_WRITE_OPTIONS = {
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 101],  # above 100 means lossless
}
# What a whole file ends with, give or take what some cameras append.
_LAST_MARK = {"PNG": b"IEND", "JPEG": b"\xff\xd9", "MPO": b"\xff\xd9"}
_TAIL = 4096
_EXIF_ORIENTATION = 274


class ImageError(ValueError):
    """A file that cannot be read as a picture, or a picture that cannot be written; the message names it."""


def find_images(folder: Path) -> list[Path]:
    """All picture files below a folder, sorted by path; hidden files and folders are passed over."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in files if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width as :func:`read_image` gives them, from the header of a file that looks whole.

    A PNG, JPEG or BMP that is cut short is found without decoding it; what does not look whole, and every other
    format, is decoded.

    Raises:
        ImageError: as :func:`read_image`.
    """
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pictures that Pillow finds large; OpenCV has a limit of its own
            with Image.open(file) as image:
                width, height = image.size
                turned = image.getexif().get(_EXIF_ORIENTATION, 1) > 4
                kind = str(image.format)
            if _looks_whole(file, kind):
                return (width, height) if turned else (height, width)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        pass  # decoding says what is wrong, or that nothing is
    height, width = read_image(path).shape[:2]
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


def read_image(path: Path) -> np.ndarray:
    """Read a picture as uint8 (H, W, 3) RGB.

    EXIF orientation is applied, grey becomes RGB, CMYK is converted without a colour profile, deeper pictures are
    scaled to 8 bits, and transparency is left out (see :func:`read_alpha`).

    Raises:
        ImageError: when the file is missing, empty or no picture that OpenCV can decode.
    """
    return _decode(path, cv2.IMREAD_COLOR_RGB)


def read_alpha(path: Path) -> np.ndarray | None:
    """A picture's transparency as uint8 (H, W), or None when it has none.

    Raises:
        ImageError: as :func:`read_image`; and when the picture has an EXIF orientation too, which OpenCV applies to
            its colours only.
    """
    if path.suffix.lower() not in _WITH_ALPHA:
        return None
    image = _decode(path, cv2.IMREAD_UNCHANGED)
    if image.ndim != 3 or image.shape[2] != 4:
        return None
    if not np.array_equal(read_image(path), _decode(path, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)):
        raise ImageError(f"{path}: has both transparency and an EXIF orientation; turn it in an editor first")
    alpha = image[..., 3]
    return alpha if alpha.dtype == np.uint8 else (alpha // 257).astype(np.uint8)


def write_image(path: Path, image: np.ndarray, alpha: np.ndarray | None = None) -> None:
    """Write uint8 (H, W, 3) RGB in the format of the file's suffix, whole or not at all.

    Folders are made as needed. JPEG quality is 95, WebP is lossless, and ``alpha`` (uint8 (H, W)) is dropped
    where the format has no transparency.

    Raises:
        ImageError: when the suffix is no supported format, or the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise ImageError(f"{path}: cannot write this format; use one of {', '.join(sorted(IMAGE_SUFFIXES))}")
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if alpha is not None and suffix in _WITH_ALPHA:
        pixels = np.dstack([pixels, alpha])
    try:
        encoded, data = cv2.imencode(suffix, pixels, _WRITE_OPTIONS.get(suffix, []))
    except cv2.error as error:
        raise ImageError(f"{path}: could not be encoded as {suffix} ({error.err})") from error
    if not encoded:
        raise ImageError(f"{path}: could not be encoded as {suffix}")
    try:
        write_atomically(path, data.tobytes())
    except OSError as error:
        raise ImageError(f"{path}: could not be written ({error.strerror})") from error


def write_atomically(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write a file so that at any moment it is absent, its old self, or complete; durable: after a power cut, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, because a rename is atomic only within one file system.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are private
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
    if durable and hasattr(os, "O_DIRECTORY"):  # Windows has no way to write a folder out
        folder = os.open(path.parent, os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)


def decode_image(data: bytes, name: str) -> np.ndarray:
    """As :func:`read_image`, from a file's content; ``name`` is for the error's message."""
    return _decode_bytes(np.frombuffer(data, np.uint8), name, cv2.IMREAD_COLOR_RGB)


def _decode(path: Path, flags: int) -> np.ndarray:
    return _decode_bytes(_read_bytes(path), str(path), flags)


def _decode_bytes(data: np.ndarray, name: str, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(data, flags)
    except cv2.error as error:  # nothing, or a header that promises more pixels than OpenCV takes
        raise ImageError(f"{name}: not a readable picture ({error.err})") from error
    if image is None:
        raise ImageError(f"{name}: not a readable picture (truncated, or not PNG, JPEG, WebP, BMP or TIFF)")
    return image


def _read_bytes(path: Path) -> np.ndarray:
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise ImageError(f"{path}: could not be read ({error.strerror})") from error
    if not data.size:
        raise ImageError(f"{path}: the file is empty")
    return data
