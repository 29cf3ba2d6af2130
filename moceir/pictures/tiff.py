"""TIFF (Adobe, revision 6), by tifffile: 8 and 16 bits, floats, any number of pages."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import tifffile
from PIL import Image

from moceir.pictures import exif
from moceir.pictures.formats import Format, check_size
from moceir.pictures.picture import AlphaKind, Metadata, Picture, PictureError, convert, highest, upright, widen
from moceir.pictures.pillow import cmyk_to_srgb

_XMP, _PROFILE, _LAYERS, _DNG = 700, 34675, 37724, 50706
_ACROSS, _DOWN, _UNIT, _INCHES = 282, 283, 296, {2: 1.0, 3: 1 / 2.54}
#: What Exif says in its first directory: these go into other formats, too.
EXIF_TAGS = {
    270, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096), exif.SUB_EXIF, exif.SUB_GPS
}  # fmt: skip
#: Tags on how pixels are stored, which the writer sets itself, and tags that have a field in :class:`Metadata`.
_STRUCTURE = {
    *range(254, 260), *range(262, 267), 273, 274, *range(277, 285), *range(288, 294), 296, 301, 317, *range(320, 331),
    *range(332, 343), 347, *range(512, 522), *range(529, 533), _XMP, _PROFILE, _LAYERS,
}  # fmt: skip
_ALPHA_KINDS = {0: "unspecified", 1: "premultiplied", 2: "straight"}
_JPEG = (6, 7)


def decode(data: bytes, format: Format, max_pixels: int | None) -> list[Picture]:
    """Decode all pages except thumbnails.

    Raises:
        PictureError: when a page holds other than grey, RGB, CMYK or indexed colours of a depth that can be restored.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        pages = [cast(tifffile.TiffPage, page) for page in file.pages]
        kept = [page for page in pages if not page.subfiletype & 1] or pages
        check_size(sum(page.imagelength * page.imagewidth for page in kept), 1, 1, max_pixels)
        left_out = (f"thumbnails left out: {len(pages) - len(kept)}",) if len(kept) < len(pages) else ()
        return [_page(page, data, left_out, classic=not file.is_bigtiff, order=file.byteorder) for page in kept]


def _page(page: tifffile.TiffPage, data: bytes, warnings: tuple[str, ...], *, classic: bool, order: str) -> Picture:
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if not count or offset + count > len(data):
            raise PictureError("not a readable picture (TIFF: cut short, parts of it are missing)")
    if _DNG in page.tags:
        raise PictureError("camera raw (DNG), of which this would be a preview; give it its suffix, .dng")
    about, lost = _metadata(page, data, classic=classic, order=cast(exif.ByteOrder, order))
    samples, bits = _values(page)
    kind = _kind(page)
    alpha, alpha_kind, depth = None, "straight", samples.dtype
    if kind == "SEPARATED":
        inks = Image.frombytes("CMYK", (page.imagewidth, page.imagelength), convert(samples, np.dtype("u1")).tobytes())
        image, about, converted = cmyk_to_srgb(inks, about)
        pixels, depth, bits, lost = np.array(image), np.dtype(np.uint8), 8, lost + converted
    elif kind == "PALETTE":
        table = np.asarray(page.colormap)
        table = table if table.max() < 256 else table >> 8  # some writers forget to scale
        pixels, bits = table.T[samples].astype(np.uint8), 8
    else:
        colours = samples.shape[2] if samples.ndim == 3 else 1
        if len(page.extrasamples):
            colours -= 1
            alpha, alpha_kind = np.ascontiguousarray(samples[..., -1]), _ALPHA_KINDS[int(page.extrasamples[0])]
        pixels = samples if samples.ndim == 2 else samples[..., 0] if colours == 1 else samples[..., :3]
        if kind == "MINISWHITE":
            pixels = highest(depth) - pixels
        if alpha is not None and alpha_kind == "premultiplied":
            pixels = _divide(pixels, alpha)
    orientation = page.tags.valueof(274, 1)
    return upright(
        Picture(
            pixels=np.ascontiguousarray(pixels),
            alpha=alpha,
            alpha_kind=cast(AlphaKind, alpha_kind),
            depth=np.dtype(depth),
            bits=bits,
            metadata=about,
            warnings=warnings + lost,
        ),
        orientation if orientation in range(1, 9) else 1,
    )


def _kind(page: tifffile.TiffPage) -> str:
    """Name the page's kind of colours, as the specification calls it."""
    return getattr(page.photometric, "name", f"number {page.photometric}")


def _values(page: tifffile.TiffPage) -> tuple[np.ndarray, int]:
    """Decode (H, W) or (H, W, C) of a type that can be restored, and return it with the bits of the file's values."""
    kind, bits, channels = _kind(page), page.bitspersample, page.samplesperpixel
    extra = len(page.extrasamples)
    colours = {"MINISBLACK": 1, "MINISWHITE": 1, "PALETTE": 1, "RGB": 3, "YCBCR": 3, "SEPARATED": 4}.get(kind)
    if colours is None or (kind == "YCBCR" and page.compression not in _JPEG):
        raise PictureError(f"colours of kind {kind}, which cannot be restored; convert it to RGB")
    if channels != colours + extra or extra > 1 or (extra and kind in ("PALETTE", "SEPARATED")) or page.imagedepth > 1:
        raise PictureError(
            f"{channels} channels of kind {kind}, {extra} of them extra; convert it to RGB, grey or RGBA"
        )
    # 1 unsigned, 3 floats; signed integers would come out wrong without a word.
    dtype = page.dtype
    if dtype is None or dtype.kind not in "buf" or dtype.itemsize * 8 > (16 if dtype.kind == "u" else 64):
        raise PictureError(f"values of type {dtype or page.sampleformat}; convert them to 8 or 16 bits or floats")
    samples = page.asarray()
    if page.planarconfig == 2 and channels > 1:
        samples = np.moveaxis(samples, 0, -1)
    samples = samples.reshape(page.imagelength, page.imagewidth, *((channels,) if channels > 1 else ()))
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    if kind == "PALETTE":
        return samples, 8
    if samples.dtype == bool:
        return samples.astype(np.uint8) * 255, 1
    return (widen(samples, bits) if samples.dtype.kind == "u" else samples), bits


def _divide(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Divide premultiplied colours by alpha, as float32; fully transparent pixels become black."""
    share = convert(alpha, np.dtype(np.float32))
    share = share.reshape(share.shape + (1,) * (pixels.ndim - 2))
    colours = convert(pixels, np.dtype(np.float32))
    return np.divide(colours, share, out=np.zeros_like(colours), where=share > 0).clip(0, 1)


def _metadata(
    page: tifffile.TiffPage, data: bytes, *, classic: bool, order: exif.ByteOrder
) -> tuple[Metadata, tuple[str, ...]]:
    warnings = ("Photoshop's layers are left out",) if _LAYERS in page.tags else ()
    xmp = page.tags[_XMP].value if _XMP in page.tags else None
    inches = _INCHES.get(int(page.tags.valueof(_UNIT, 2)))
    rationals = [page.tags.valueof(tag, (0, 1)) for tag in (_ACROSS, _DOWN)]
    across, down = (top / bottom / inches if inches and bottom else 0.0 for top, bottom in rationals)
    if classic:
        tags = exif.read_directory(data, page.offset, order)
    else:
        tags, warnings = {}, (*warnings, "Exif is left out, which is not read from a BigTIFF")
    described = {tag: entry for tag, entry in tags.items() if tag in EXIF_TAGS}
    others = {tag: entry for tag, entry in tags.items() if tag not in EXIF_TAGS | _STRUCTURE}
    about = Metadata(
        exif=exif.write(described, order) if described else None,
        xmp=xmp.encode() if isinstance(xmp, str) else bytes(xmp) if xmp else None,
        profile=page.iccprofile or None,
        resolution=(across, down) if across > 0 and down > 0 else None,
        native=(("TIFF", (order, others)),) if others else (),
    )
    return about, warnings


def encode(pictures: Sequence[Picture], format: Format, quality: int | None) -> tuple[bytes, list[str]]:
    """Encode a TIFF with a page for each picture, compressed without loss."""
    described = []
    lost = []
    for picture in pictures:
        try:
            described.append(_description(picture.metadata))
        except ValueError:
            described.append(_description(replace(picture.metadata, exif=None)))
            lost.append("Exif is lost: it is damaged")
    order: exif.ByteOrder = next((order for order, _ in described if order is not None), "<")
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, byteorder=order, bigtiff=False) as file:
        for picture in pictures:
            _write_page(file, picture)
    with tifffile.TiffFile(io.BytesIO(stream.getvalue())) as written:
        offsets = [cast(tifffile.TiffPage, page).offset for page in written.pages]
    # tifffile writes no directories below a page's, so rewrite the pages' own directories at the end of the file.
    data = bytearray(stream.getvalue())
    link = 4
    for offset, (_, description) in zip(offsets, described, strict=True):
        directory = exif.read_directory(stream.getvalue(), offset, order) | description
        data += bytes(len(data) % 2)
        struct.pack_into(f"{order}I", data, link, len(data))
        link = len(data) + 2 + 12 * len(directory)
        data += exif.write_directory(directory, len(data), order)
    return bytes(data), lost


def _description(about: Metadata) -> tuple[exif.ByteOrder | None, exif.Directory]:
    """Read a page's directory without the tags on pixel storage, and its byte order if that matters."""
    order, directory = about.blocks("TIFF")[0] if about.blocks("TIFF") else (None, {})
    if about.exif:
        order = exif.byte_order(about.exif)
        directory = directory | exif.parse(about.exif)
    directory = {tag: entry for tag, entry in directory.items() if tag not in _STRUCTURE}
    if about.xmp:
        directory[_XMP] = exif.Entry(1, len(about.xmp), about.xmp)
    return order, directory


def _write_page(file: tifffile.TiffWriter, picture: Picture) -> None:
    samples, extra = picture.pixels, []
    if picture.alpha is not None:
        if picture.alpha_kind == "premultiplied":
            share = convert(picture.alpha, np.dtype(np.float32))
            samples = samples * share.reshape(share.shape + (1,) * (samples.ndim - 2))
        samples = np.dstack([convert(samples, picture.depth), picture.alpha])
        extra = [kind for kind, name in _ALPHA_KINDS.items() if name == picture.alpha_kind]
    file.write(
        samples,
        photometric="rgb" if picture.pixels.ndim == 3 else "minisblack",
        planarconfig="contig" if samples.ndim == 3 else None,
        extrasamples=extra or None,
        compression="zlib",
        predictor=samples.dtype != np.float16,
        resolution=picture.metadata.resolution,
        resolutionunit=2 if picture.metadata.resolution else None,
        iccprofile=picture.metadata.profile,
        metadata=None,
        software=False,
        contiguous=False,
    )
