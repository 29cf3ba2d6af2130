"""The kinds of picture file: their names, what each can hold, and which module decodes and encodes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moceir.extras import remedy
from moceir.pictures.picture import Picture, PictureError, convert
from moceir.pictures.profiles import is_srgb

#: The most pixels, over all frames, that a file may have unless the caller allows more.
MAX_PIXELS = 250_000_000


class Format(NamedTuple):
    """A kind of file."""

    name: str
    suffixes: tuple[str, ...]
    """The format's suffixes; the first is the default."""
    module: str
    """In this package, with functions ``decode`` and ``encode``; imported when it is needed."""
    depths: str = "u1"
    """The types of values a file can hold, as numpy writes them."""
    alpha: bool = True
    frames: bool = False
    """A file can hold several pictures."""
    lossy: bool = False
    """``quality`` applies."""
    package: str | None = None
    """The package that it needs, if any."""
    extra: str | None = None
    """Our extra that installs the package."""
    written: bool = True
    profiles: bool = True
    """False: other colours than sRGB are refused, because without their profile they would come out wrong."""

    @property
    def available(self) -> bool:
        """Return whether its package is installed."""
        return self.package is None or find_spec(self.package) is not None


PNG = Format("PNG", (".png", ".apng"), "png", "u1 u2", frames=True)
JPEG = Format("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), "pillow", alpha=False, lossy=True)
WEBP = Format("WebP", (".webp",), "pillow", frames=True, lossy=True)
GIF = Format("GIF", (".gif",), "pillow", frames=True)
BMP = Format("BMP", (".bmp",), "pillow", alpha=False)
TIFF = Format("TIFF", (".tif", ".tiff"), "tiff", "u1 u2 f2 f4 f8", frames=True)
AVIF = Format("AVIF", (".avif",), "avif", "u1 u2", frames=True, lossy=True)
JPEG2000 = Format("JPEG 2000", (".jp2",), "jpeg2000", "u1 u2")
HEIC = Format("HEIC", (".heic", ".heif"), "heif", "u1 u2", lossy=True, package="pillow_heif", extra="heic")
JPEGXL = Format("JPEG XL", (".jxl",), "jpegxl", "u1 u2", lossy=True, package="pyjpegxl", extra="jxl", profiles=False)
RAW = Format(
    "camera raw",
    (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"),
    "raw",
    package="rawpy",
    extra="raw",
    written=False,
)
FORMATS = (PNG, JPEG, WEBP, GIF, BMP, TIFF, AVIF, JPEG2000, HEIC, JPEGXL, RAW)

_MARKS = (
    (PNG, 0, b"\x89PNG\r\n\x1a\n"),
    (JPEG, 0, b"\xff\xd8\xff"),
    (WEBP, 8, b"WEBP"),
    (GIF, 0, b"GIF8"),
    (BMP, 0, b"BM"),
    *((TIFF, 0, mark) for mark in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    *((AVIF, 4, b"ftyp" + brand) for brand in (b"avif", b"avis")),
    *((HEIC, 4, b"ftyp" + brand) for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1")),
    *((JPEGXL, 0, mark) for mark in (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    (JPEG2000, 0, b"\0\0\0\x0cjP  \r\n\x87\n"),
)

BY_SUFFIX = {suffix: format for format in FORMATS for suffix in format.suffixes}
#: The suffixes of the files that can be read here.
PICTURE_SUFFIXES = frozenset(suffix for suffix, format in BY_SUFFIX.items() if format.available)


def names(*, written: bool = False) -> str:
    """List the formats that can be read here, or written, in words."""
    return ", ".join(format.name for format in FORMATS if format.available and (format.written or not written))


def missing(format: Format) -> str:
    """Say how to install the package that a format needs."""
    return remedy(format.name, str(format.package), str(format.extra))


def format_of(data: bytes, name: str = "") -> Format | None:
    """Recognise a format from a file's content, not its name; None when it is not a known picture.

    Only camera raw is recognised by name: many kinds look like a TIFF with a preview in it.
    """
    if BY_SUFFIX.get(Path(name).suffix.lower()) is RAW:
        return RAW
    return next((format for format, offset, mark in _MARKS if data.startswith(mark, offset)), None)


def format_for(path: Path) -> Format:
    """Return the format for writing a file of this name.

    Raises:
        PictureError: when the suffix is not a format's, or the format cannot be written here.
    """
    format = BY_SUFFIX.get(path.suffix.lower())
    if format is None or not format.written:
        raise PictureError(f"{path}: cannot write this format; use one of {names(written=True)}")
    _need(format, path)
    return format


def decode(data: bytes, name: str, *, max_pixels: int | None = MAX_PIXELS) -> list[Picture]:
    """Decode all pictures in a file's content: one, the frames of an animation, or the pages of a TIFF.

    Args:
        data: the content.
        name: for the error's message.
        max_pixels: of all pictures together; None for any number.

    Raises:
        PictureError: when it is empty, damaged, too large or of no known kind, or holds values that are not finite.
    """
    if not data:
        raise PictureError(f"{name}: the file is empty")
    format = format_of(data, name)
    if format is None:
        raise PictureError(f"{name}: not a readable picture (none of {names()})")
    _need(format, name)
    try:
        pictures = import_module(f"moceir.pictures.{format.module}").decode(data, format, max_pixels)
        for picture in pictures:
            check_values(picture.pixels)
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from error
    except MemoryError as error:
        raise PictureError(f"{name}: not enough memory to decode it") from error
    except Exception as error:  # each library has its own ways to say that a file is damaged
        reason = " ".join(str(error).split())
        raise PictureError(f"{name}: not a readable picture ({format.name}: {reason})") from error
    return pictures


def encode(pictures: Sequence[Picture], path: Path, *, quality: int | None = None) -> tuple[bytes, list[str]]:
    """Encode pictures; return the file's content, and phrases that name what it could not keep.

    Args:
        pictures: one, or as many as the format takes, in types that it takes (see :func:`fit`).
        path: what the file will be called; its suffix decides the format.
        quality: 1 to 100, of JPEG, WebP and AVIF; None for 95 or, of WebP, no loss.

    Raises:
        PictureError: when no format has the suffix, or the format cannot hold the pictures.
    """
    format = format_for(path)
    check_target(pictures, format, path)
    pictures = [replace(picture, pixels=np.ascontiguousarray(picture.pixels)) for picture in pictures]
    try:
        return import_module(f"moceir.pictures.{format.module}").encode(pictures, format, quality)
    except Exception as error:
        raise PictureError(f"{path}: could not be encoded as {format.name} ({error})") from error


def fit(picture: Picture, format: Format) -> Picture:
    """Give a picture the depth and transparency that a format can hold; its warnings name what is lost.

    The pixels are not converted: the caller computes new ones and rounds once, to the new depth.
    """
    depths = [np.dtype(depth) for depth in format.depths.split()]
    if picture.depth not in depths:
        depth = max(depths, key=lambda depth: depth.itemsize * (depth.kind == "u"))
        lost = (f"{picture.depth} became {depth}, as {format.name} holds",)
        alpha = None if picture.alpha is None else convert(picture.alpha, depth)
        picture = replace(picture, alpha=alpha, depth=depth, bits=depth.itemsize * 8, warnings=picture.warnings + lost)
    if format is not TIFF and picture.alpha_kind != "straight":
        if picture.alpha_kind == "unspecified":
            noted = (*picture.warnings, "an unspecified channel became transparency")
            picture = replace(picture, warnings=noted)
        picture = replace(picture, alpha_kind="straight")
    if picture.alpha is not None and not format.alpha:
        picture = replace(
            picture, alpha=None, warnings=(*picture.warnings, f"transparency is lost, as {format.name} has none")
        )
    return picture


def check_target(pictures: Sequence[Picture], format: Format, path: Path) -> None:
    """Raise PictureError when a file cannot hold this many pictures, or their colours."""
    if len(pictures) > 1 and not format.frames:
        raise PictureError(f"{path}: {format.name} holds one picture, not {len(pictures)}; use TIFF, PNG, WebP or GIF")
    profile = pictures[0].metadata.profile
    if profile and not format.profiles and not is_srgb(profile):
        raise PictureError(f"{path}: {format.name} is written in sRGB only, not with a colour profile; use TIFF or PNG")


def check_size(height: int, width: int, frames: int, max_pixels: int | None) -> None:
    """Raise PictureError when a file's header declares too many pixels, or none."""
    pixels = height * width * frames
    if not pixels:
        raise PictureError(f"not a readable picture: {width}×{height} pixels")
    if max_pixels is not None and pixels > max_pixels:
        raise PictureError(f"{pixels:,} pixels; --max-pixels allows {max_pixels:,}, and 0 any number")


def check_values(pixels: np.ndarray) -> None:
    """Raise PictureError when floats are not finite, or not from 0 to 1."""
    if pixels.dtype.kind == "f":
        low, high = pixels.min(), pixels.max()  # NaN when one is
        if not (np.isfinite(low) and np.isfinite(high)):
            raise PictureError("holds values that are not finite (NaN or infinity); replace them first")
        if low < 0 or high > 1:
            raise PictureError(f"holds values from {low:.4g} to {high:.4g}; scale them to 0 to 1 first")


def _need(format: Format, name: object) -> None:
    if not format.available:
        raise PictureError(f"{name}: {missing(format)}")
