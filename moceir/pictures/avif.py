"""AVIF: 8 bits and animations by Pillow, 10 and 12 bits by OpenCV."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from PIL import AvifImagePlugin

from moceir.pictures import pillow
from moceir.pictures.formats import Format
from moceir.pictures.picture import Picture, upright, widen

_DEPTH_BOX = b"pixi\0\0\0\0"  # ISO 23008-12, 6.5.6: then the number of channels, and the bits of each


def decode(data: bytes, format: Format, max_pixels: int | None) -> list[Picture]:
    """Decode one picture, or the frames of an animation in 8 bits."""
    frames = pillow.frames_of(AvifImagePlugin.AvifImageFile(io.BytesIO(data)), (), max_pixels)
    place = data.find(_DEPTH_BOX) + len(_DEPTH_BOX) + 1
    bits = data[place] if place > len(_DEPTH_BOX) else 8
    if len(frames) == 1 and bits in (10, 12):
        return [upright(_deep(data, bits, frames[0]))]
    return [upright(frame) for frame in frames]


def _deep(data: bytes, bits: int, shallow: Picture) -> Picture:
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16:
        raise ValueError("its deep values cannot be decoded")
    samples = widen(samples, bits)
    return replace(
        shallow,
        pixels=np.ascontiguousarray(samples if samples.ndim == 2 else samples[..., 2::-1]),
        alpha=samples[..., 3].copy() if samples.shape[2:] == (4,) else None,
        depth=samples.dtype,
        bits=bits,
    )


def encode(pictures: Sequence[Picture], format: Format, quality: int | None) -> tuple[bytes, list[str]]:
    """Encode a file of 8 bits, or, for deeper pictures, of 10, or of 12 if the picture had 12."""
    first = pictures[0]
    about = first.metadata
    quality = quality or pillow.DEFAULT_QUALITY
    lost = []
    if about.resolution and not about.exif:
        lost.append("resolution is lost, as AVIF has no place for it outside Exif")
    if first.depth == np.uint8:
        options: dict[str, Any] = {"exif": about.exif, "xmp": about.xmp, "icc_profile": about.profile}
        options = {name: value for name, value in options.items() if value is not None}
        options |= {"quality": quality, "subsampling": "4:4:4"}
        try:
            return pillow.save(pictures, "AVIF", **options), lost
        except Exception:
            if not options.pop("exif", None):  # Pillow reads it, to find the orientation
                raise
            return pillow.save(pictures, "AVIF", **options), [*lost, "Exif is lost: it is damaged"]
    bits = first.bits if first.bits in (10, 12) else 12
    samples = first.pixels if first.pixels.ndim == 2 else first.pixels[..., ::-1]
    if first.alpha is not None:  # OpenCV has no grey with alpha
        samples = np.dstack([np.broadcast_to(np.atleast_3d(samples), (*first.size, 3)), first.alpha])
    kinds = {cv2.IMAGE_METADATA_EXIF: about.exif, cv2.IMAGE_METADATA_XMP: about.xmp}
    kinds[cv2.IMAGE_METADATA_ICCP] = about.profile
    held = {kind: np.frombuffer(block, np.uint8) for kind, block in kinds.items() if block}
    done, data = cv2.imencodeWithMetadata(
        ".avif",
        np.rint(samples * ((2**bits - 1) / 65535)).astype(np.uint16),
        list(held),
        list(held.values()),
        [cv2.IMWRITE_AVIF_DEPTH, bits, cv2.IMWRITE_AVIF_QUALITY, quality],
    )
    if not done:
        raise ValueError("OpenCV could not encode it")
    return data.tobytes(), lost
