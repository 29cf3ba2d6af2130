"""PNG (W3C, third edition), by imagecodecs; chunks that describe the picture are kept unchanged.

Animations (APNG) are Pillow's, and have 8 bits.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace

import imagecodecs
import numpy as np
from PIL import PngImagePlugin

from moceir.pictures import pillow
from moceir.pictures.formats import Format, check_size
from moceir.pictures.picture import Metadata, Picture, PictureError, upright

_INCH = 0.0254
_XMP_KEY = b"XML:com.adobe.xmp"
#: How values are to be shown, and texts: what stays true when the values change a little.
_KEPT = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"tEXt", b"zTXt", b"iTXt", b"tIME")
#: Of a decompressed profile; the largest in use have a few MB.
_MOST = 64 << 20


def decode(data: bytes, format: Format, max_pixels: int | None) -> list[Picture]:
    """Decode one picture, or the frames of an animation."""
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    check_size(height, width, 1, max_pixels)
    pixels_only, chunks, damaged = _split(data)
    about = _metadata(chunks)
    warnings = tuple(f"a damaged {kind.decode('latin-1')} chunk is left out" for kind in damaged)
    if any(kind == b"acTL" for kind, _ in chunks):
        if bits > 8:
            raise PictureError("an animated PNG of 16 bits, which is not supported; save its frames as files")
        image = PngImagePlugin.PngImageFile(io.BytesIO(data))
        frames = pillow.frames_of(image, (), max_pixels)
        return [upright(replace(picture, metadata=about, warnings=warnings)) for picture in frames]
    samples = imagecodecs.png_decode(pixels_only)
    alpha = None
    if samples.ndim == 3 and samples.shape[2] in (2, 4):
        alpha = np.ascontiguousarray(samples[..., -1])
        samples = samples[..., 0] if samples.shape[2] == 2 else samples[..., :3]
    picture = Picture(
        pixels=np.ascontiguousarray(samples),
        alpha=alpha,
        depth=samples.dtype,
        bits=max(8, bits),
        metadata=about,
        warnings=warnings,
    )
    return [upright(picture)]


def _split(data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], list[bytes]]:
    """Split a file: the pixels alone, as a file; kind and content of other chunks; and kinds of damaged chunks.

    libpng would print errors in the other chunks without the file's name.
    """
    pixels, chunks, damaged = [data[:8]], [], []
    place = 8
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            pixels.append(data[place:end])
        elif end <= len(data) and struct.unpack_from(">I", data, end - 4)[0] == zlib.crc32(data[place + 4 : end - 4]):
            chunks.append((kind, data[place + 8 : end - 4]))
        else:
            damaged.append(kind)
        place = end
    return b"".join(pixels), chunks, damaged


def _metadata(chunks: list[tuple[bytes, bytes]]) -> Metadata:
    found = dict(reversed(chunks))  # the first of each kind
    resolution = None
    if len(found.get(b"pHYs", b"")) == 9:
        across, down, unit = struct.unpack(">IIB", found[b"pHYs"])
        resolution = (across * _INCH, down * _INCH) if unit == 1 and across and down else None
    xmp = next((text for kind, content in chunks if kind == b"iTXt" and (text := _xmp(content))), None)
    return Metadata(
        exif=found.get(b"eXIf"),
        xmp=xmp,
        profile=_inflate(found[b"iCCP"].partition(b"\0")[2][1:]) if b"iCCP" in found else None,
        resolution=resolution,
        native=tuple(("PNG", chunk) for chunk in chunks if chunk[0] in _KEPT and not _xmp(chunk[1])),
    )


def _xmp(content: bytes) -> bytes | None:
    """Extract the XMP packet from the content of an iTXt chunk, if it holds one."""
    key, _, rest = content.partition(b"\0")
    if key != _XMP_KEY or len(rest) < 4:
        return None
    text = rest[2:].split(b"\0", 2)[2]  # behind the language and the translated key
    return _inflate(text) if rest[0] else text


def _inflate(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, _MOST)


def encode(pictures: Sequence[Picture], format: Format, quality: int | None) -> tuple[bytes, list[str]]:
    """Encode a PNG, or an animated one."""
    first = pictures[0]
    if len(pictures) > 1:
        data = pillow.save(pictures, "PNG")
    else:
        samples = first.pixels if first.alpha is None else np.dstack([first.pixels, first.alpha])
        # A quarter larger than the smallest, and four times as fast.
        data = bytes(imagecodecs.png_encode(samples, level=1, strategy=3, filter=16))
    about = first.metadata
    chunks: list[tuple[bytes, bytes]] = list(about.blocks("PNG"))
    if about.profile:
        # Not both: sRGB would contradict any other profile.
        chunks = [chunk for chunk in chunks if chunk[0] != b"sRGB"]
        chunks.insert(0, (b"iCCP", b"ICC profile\0\0" + zlib.compress(about.profile)))
    if about.resolution:
        across, down = (round(dots / _INCH) for dots in about.resolution)
        chunks.append((b"pHYs", struct.pack(">IIB", across, down, 1)))
    if about.exif:
        chunks.append((b"eXIf", about.exif))
    if about.xmp:
        chunks.append((b"iTXt", _XMP_KEY + b"\0\0\0\0\0" + about.xmp))
    header = 8 + 25
    return data[:header] + b"".join(map(_chunk, chunks)) + data[header:], []


def _chunk(chunk: tuple[bytes, bytes]) -> bytes:
    kind, content = chunk
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
