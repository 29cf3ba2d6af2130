"""HEIC, by pillow-heif: 8 bits, and 10 or 12. An extra, because its wheels hold x265, which is under the GPL."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pillow_heif

from moceir.pictures.formats import Format, check_size
from moceir.pictures.picture import Metadata, Picture, upright, widen
from moceir.pictures.pillow import DEFAULT_QUALITY

_PREFIX = b"Exif\0\0"


def decode(data: bytes, format: Format, max_pixels: int | None) -> list[Picture]:
    """Decode the main picture; leave out the others in the file, and count them."""
    file = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
    image = file[file.primary_index]
    width, height = image.size
    check_size(height, width, 1, max_pixels)
    info: dict[str, Any] = image.info
    bits = info.get("bit_depth", 8)
    samples = np.asarray(image)
    if samples.dtype == np.uint16:
        samples = widen(samples >> (16 - bits), bits)
    samples = samples if samples.ndim == 3 else samples[..., None]
    about = Metadata(
        exif=(info.get("exif") or b"").removeprefix(_PREFIX) or None,
        xmp=info.get("xmp") or None,
        profile=info.get("icc_profile") or None,
    )
    picture = Picture(
        pixels=np.ascontiguousarray(samples[..., 0] if samples.shape[2] < 3 else samples[..., :3]),
        alpha=np.ascontiguousarray(samples[..., -1]) if samples.shape[2] in (2, 4) else None,
        depth=samples.dtype,
        bits=bits,
        metadata=about,
        warnings=(f"{len(file) - 1} further pictures in the file are left out",) if len(file) > 1 else (),
    )
    return [upright(picture, 1)]  # the decoder has turned it, by the file's own box, whatever Exif says


def encode(pictures: Sequence[Picture], format: Format, quality: int | None) -> tuple[bytes, list[str]]:
    """Encode a file with full colour resolution, of 8 or 10 bits."""
    (picture,) = pictures
    about = picture.metadata
    planes = [picture.pixels] * 3 if picture.pixels.ndim == 2 else [picture.pixels]
    samples = np.dstack([*planes, picture.alpha] if picture.alpha is not None else planes)
    mode = ("RGBA" if picture.alpha is not None else "RGB") + (";16" if samples.dtype == np.uint16 else "")
    image = pillow_heif.from_bytes(mode, (samples.shape[1], samples.shape[0]), samples.tobytes())
    if about.profile:
        image.info["icc_profile"], image.info["icc_profile_type"] = about.profile, "prof"
    stream = io.BytesIO()
    exif = _PREFIX + about.exif if about.exif else None
    image.save(stream, quality=quality or DEFAULT_QUALITY, chroma=444, exif=exif, xmp=about.xmp)
    lost = ["resolution is lost, as HEIC has no place for it outside Exif"] if about.resolution and not exif else []
    return stream.getvalue(), lost
