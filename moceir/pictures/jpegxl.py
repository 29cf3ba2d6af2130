"""JPEG XL (ISO 18181), by pyjpegxl; imagecodecs decodes, as it alone shows that a file is an animation.

Neither writes a profile where other readers find it (pyjpegxl 0.3 has a box of its own), and both take floats for
linear light. So what is written is sRGB, which needs no profile, in 8 or 16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import imagecodecs
import numpy as np
import pyjpegxl

from moceir.pictures.boxes import box
from moceir.pictures.formats import Format, check_size
from moceir.pictures.picture import Metadata, Picture, PictureError, upright, widen
from moceir.pictures.profiles import is_srgb, name_of

_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
#: The end of libjxl's name for a profile of linear light: what it decodes to where it cannot to the file's.
_LINEAR = "_Lin"


def decode(data: bytes, format: Format, max_pixels: int | None) -> list[Picture]:
    """Decode the picture."""
    about = pyjpegxl.probe(data)
    check_size(about.height, about.width, 1, max_pixels)
    if about.icc and about.bits_per_sample < 32 and name_of(about.icc).endswith(_LINEAR):
        raise PictureError("a lossy JPEG XL with a profile, which is decoded as linear light; convert it to TIFF first")
    samples = imagecodecs.jpegxl_decode(data)
    channels = about.num_color_channels + about.has_alpha
    if samples.shape not in ((about.height, about.width), (about.height, about.width, channels)):
        raise PictureError("an animated JPEG XL, or one of other channels than grey, RGB and alpha; convert it first")
    if samples.dtype.kind == "u":
        samples = widen(samples, about.bits_per_sample)
    samples = samples.reshape(*samples.shape[:2], channels)
    exif = about.exif or b""
    picture = Picture(
        pixels=np.ascontiguousarray(samples[..., 0] if channels < 3 else samples[..., :3]),
        alpha=np.ascontiguousarray(samples[..., -1]) if about.has_alpha else None,
        depth=samples.dtype,
        bits=about.bits_per_sample,
        metadata=Metadata(
            exif=exif[4 + int.from_bytes(exif[:4], "big") :] or None,
            xmp=about.xmp or None,
            profile=about.icc if about.icc and not is_srgb(about.icc) else None,
        ),
    )
    return [upright(picture, 1)]  # the decoder has turned it, by the file's own header, whatever Exif says


def encode(pictures: Sequence[Picture], format: Format, quality: int | None) -> tuple[bytes, list[str]]:
    """Encode a file without loss, unless a quality is given."""
    (picture,) = pictures
    about = picture.metadata
    samples = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
    if quality is None:
        data = pyjpegxl.encode_from_numpy(samples, lossless=True)
    else:  # a distance, as libjxl has it for a quality
        data = pyjpegxl.encode_from_numpy(samples, quality=0.1 + (100 - quality) * 0.09)
    if not data.startswith(_CONTAINER):
        data = _CONTAINER + box(b"ftyp", b"jxl \0\0\0\0jxl ") + box(b"jxlc", data)
    data += box(b"Exif", bytes(4) + about.exif) if about.exif else b""
    data += box(b"xml ", about.xmp) if about.xmp else b""
    lost = about.resolution and not about.exif
    return data, ["resolution is lost, as JPEG XL has no place for it outside Exif"] if lost else []
