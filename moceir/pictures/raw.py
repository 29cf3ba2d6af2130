"""Camera raw, by rawpy (LibRaw): developed to 16 bits of sRGB with the camera's white balance, and written as TIFF."""

from __future__ import annotations

import io

import numpy as np
import rawpy

from moceir.pictures import exif
from moceir.pictures.formats import Format, check_size
from moceir.pictures.picture import Metadata, Picture, upright
from moceir.pictures.tiff import EXIF_TAGS


def decode(data: bytes, format: Format, max_pixels: int | None) -> list[Picture]:
    """Decode the picture; keep the brightness as it was exposed."""
    with rawpy.imread(io.BytesIO(data)) as raw:
        check_size(raw.sizes.height, raw.sizes.width, 1, max_pixels)
        samples = raw.postprocess(output_bps=16, use_camera_wb=True, no_auto_bright=True)
    try:  # most kinds of raw file are built like TIFF
        order, tags = exif.byte_order(data), exif.parse(data)
        block = exif.write({tag: entry for tag, entry in tags.items() if tag in EXIF_TAGS}, order)
    except ValueError:
        block = None
    picture = Picture(pixels=samples, depth=np.dtype(np.uint16), bits=16, metadata=Metadata(exif=block))
    return [upright(picture, 1)]  # LibRaw has turned it
