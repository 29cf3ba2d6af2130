"""JPEG 2000 in its JP2 files (ISO 15444-1, annex I), by imagecodecs; what is around the codestream is in boxes."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import imagecodecs
import numpy as np

from moceir.pictures.boxes import box, boxes
from moceir.pictures.formats import Format, check_size
from moceir.pictures.picture import Metadata, Picture, PictureError, upright, widen

_INCH = 0.0254
_EXIF = b"JpgTiffExif->JP2"
_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_ENUMERATED, _RESTRICTED_PROFILE = 1, 2
_SRGB, _GREY = struct.pack(">I", 16), struct.pack(">I", 17)


def decode(data: bytes, format: Format, max_pixels: int | None) -> list[Picture]:
    """Decode the picture."""
    parts = list(boxes(data))
    header = dict(boxes(next(content for kind, content in parts if kind == b"jp2h")))
    height, width, _, depth = struct.unpack_from(">IIHB", header[b"ihdr"])
    check_size(height, width, 1, max_pixels)
    colour = header.get(b"colr", b"\1")
    if b"pclr" in header or (colour[0] == _ENUMERATED and colour[3:7] not in (_SRGB, _GREY)):
        raise PictureError(
            "a JPEG 2000 of indexed colours or of another colour space than RGB or grey; convert it first"
        )
    # Without the boxes around it, because with them the decoder would apply the profile, in 8 bits.
    samples = imagecodecs.jpeg2k_decode(next(content for kind, content in parts if kind == b"jp2c"))
    if samples.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"values of type {samples.dtype}")
    bits = depth + 1 if depth < 16 else samples.dtype.itemsize * 8
    samples = widen(samples, max(bits, 8) if samples.dtype == np.uint8 and bits > 8 else bits)
    alpha = None
    if samples.ndim == 3 and samples.shape[2] in (2, 4):
        alpha = np.ascontiguousarray(samples[..., -1])
        samples = samples[..., 0] if samples.shape[2] == 2 else samples[..., :3]
    blocks = {content[:16]: content[16:] for kind, content in parts if kind == b"uuid"}
    about = Metadata(
        exif=blocks.get(_EXIF),
        xmp=blocks.get(_XMP),
        profile=colour[3:] if colour[0] == _RESTRICTED_PROFILE else None,
        resolution=_resolution(dict(boxes(header.get(b"res ", b"")))),
    )
    pixels = np.ascontiguousarray(samples)
    return [upright(Picture(pixels=pixels, alpha=alpha, depth=samples.dtype, bits=bits, metadata=about))]


def _resolution(places: dict[bytes, bytes]) -> tuple[float, float] | None:
    """Return the display resolution, or else the capture resolution, in pixels per inch; boxes give it per metre."""
    place = places.get(b"resd", places.get(b"resc"))
    if place is None:
        return None
    down, down_unit, across, across_unit, down_power, across_power = struct.unpack(">HHHHbb", place)
    if not (down and down_unit and across and across_unit):
        return None
    return across / across_unit * 10.0**across_power * _INCH, down / down_unit * 10.0**down_power * _INCH


def encode(pictures: Sequence[Picture], format: Format, quality: int | None) -> tuple[bytes, list[str]]:
    """Encode a file without loss."""
    (picture,) = pictures
    about = picture.metadata
    samples = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
    data = bytes(imagecodecs.jpeg2k_encode(samples, level=0, codecformat="jp2", reversible=True))
    colours = samples.shape[2] if samples.ndim == 3 else 1
    header = b""
    for kind, content in boxes(next(content for kind, content in boxes(data) if kind == b"jp2h")):
        if kind == b"colr" and about.profile:
            content = struct.pack(">BBB", _RESTRICTED_PROFILE, 0, 0) + about.profile
        if kind == b"colr" and not about.profile:
            content = struct.pack(">BBB", _ENUMERATED, 0, 0) + (_SRGB if picture.pixels.ndim == 3 else _GREY)
        header += box(kind, content)
    if picture.alpha is not None:
        rows = [(index, 0, index + 1) for index in range(colours - 1)] + [(colours - 1, 1, 0)]
        header += box(b"cdef", struct.pack(">H", colours) + b"".join(struct.pack(">HHH", *row) for row in rows))
    if about.resolution:
        across, down = (round(dots / _INCH) for dots in about.resolution)
        header += box(b"res ", box(b"resd", struct.pack(">HHHHbb", *_sixteen(down), *_sixteen(across), 0, 0)))
    file = b"".join(
        box(kind, header if kind == b"jp2h" else content) for kind, content in boxes(data) if kind != b"cdef"
    )
    for name, block in ((_EXIF, about.exif), (_XMP, about.xmp)):
        file += box(b"uuid", name + block) if block else b""
    return file, []


def _sixteen(number: int) -> tuple[int, int]:
    """Approximate a value by a fraction of 16-bit numbers."""
    return (number, 1) if number < 65536 else (65535, max(1, round(65535 / number)))
