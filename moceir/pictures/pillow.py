"""JPEG, WebP, GIF and BMP, by Pillow: formats of 8 bits."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageCms, ImageFile, JpegImagePlugin, WebPImagePlugin

from moceir.pictures.formats import Format, check_size
from moceir.pictures.picture import Metadata, Picture, upright

DEFAULT_QUALITY = 95
#: Bytes that fit into one segment of a JPEG file, less the longest prefix.
_SEGMENT = 65_533 - 32
_PREFIX = b"Exif\0\0"
#: Not ``Image.open``, which tries everything that is installed and refuses more than 179 megapixels.
_OPEN: dict[str, Callable[[BinaryIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}


def decode(data: bytes, format: Format, max_pixels: int | None) -> list[Picture]:
    """Decode all frames; leave out a JPEG's further pictures (previews, gain maps), and name them."""
    image = _OPEN[format.name](io.BytesIO(data))
    pictures = frames_of(image, _native(image, format.name), max_pixels)
    if "mp" in image.info:  # the index of an MPO, CIPA DC-007
        note = "a second picture in the file (a preview, a gain map, the other eye) is left out"
        pictures = [replace(picture, warnings=(*picture.warnings, note)) for picture in pictures]
    return [upright(picture) for picture in pictures]


def frames_of(
    image: ImageFile.ImageFile, native: Sequence[tuple[str, object]], max_pixels: int | None
) -> list[Picture]:
    """Decode the frames of an opened file as they are shown in order; they are not upright yet."""
    count = getattr(image, "n_frames", 1)
    check_size(image.height, image.width, count, max_pixels)
    about = Metadata(
        exif=(image.info.get("exif") or b"").removeprefix(_PREFIX) or None,
        xmp=image.info.get("xmp") or None,
        profile=image.info.get("icc_profile") or None,
        resolution=_resolution(image.info.get("dpi")),
        native=tuple(native),
    )
    pictures = []
    for index in range(count):
        image.seek(index)
        image.load()
        picture = _picture(image, about)
        if count > 1:
            picture = replace(picture, duration=image.info.get("duration", 0), loop=image.info.get("loop"))
        pictures.append(picture)
    return pictures


def _picture(image: Image.Image, about: Metadata) -> Picture:
    warnings: tuple[str, ...] = ()
    if image.mode == "CMYK":
        image, about, warnings = cmyk_to_srgb(image, about)
    elif image.mode in ("1", "I;16", "F"):
        image = image.convert("L")
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    samples = np.asarray(image)
    alpha = samples[..., -1].copy() if image.mode.endswith("A") else None
    pixels = {"L": samples, "LA": samples[..., 0]}.get(image.mode, samples[..., :3])
    return Picture(
        pixels=np.ascontiguousarray(pixels),
        alpha=alpha,
        depth=np.dtype(np.uint8),
        bits=8,
        metadata=about,
        warnings=warnings,
    )


def cmyk_to_srgb(image: Image.Image, about: Metadata) -> tuple[Image.Image, Metadata, tuple[str, ...]]:
    """Convert CMYK to RGB, by the profile if there is one (relative colorimetric, black point compensation)."""
    if about.profile is None:
        return image.convert("RGB"), about, ("CMYK without a profile became RGB, by the plain formula",)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(about.profile))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    converted = ImageCms.profileToProfile(
        image,
        profile,
        srgb,
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if converted is None:
        raise ValueError("the colour profile does not fit")
    return converted, replace(about, profile=srgb.tobytes()), ("CMYK became sRGB, by its profile",)


def _resolution(dpi: tuple[float, float] | None) -> tuple[float, float] | None:
    return (float(dpi[0]), float(dpi[1])) if dpi and min(dpi) > 0 else None


def _native(image: ImageFile.ImageFile, format: str) -> list[tuple[str, object]]:
    """Collect a JPEG's captions (IPTC), comments and long XMP, as whole segments."""
    kept = []
    for name, content in getattr(image, "applist", ()):
        marker = {"COM": 0xFE, "APP1": 0xE1, "APP13": 0xED}.get(name)
        if marker and (name != "APP1" or content.startswith(b"http://ns.adobe.com/xmp/extension/\0")):
            kept.append((format, bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content))
    return kept


def encode(pictures: Sequence[Picture], format: Format, quality: int | None) -> tuple[bytes, list[str]]:
    """Encode all frames. JPEG keeps full colour resolution; WebP is lossless unless a quality is given."""
    first = pictures[0]
    about, lost = first.metadata, []
    options: dict[str, Any] = {}
    if format.name in ("JPEG", "WebP"):
        options = {"exif": about.exif and _PREFIX + about.exif, "xmp": about.xmp, "icc_profile": about.profile}
    else:
        held: dict[str, object] = {"Exif": about.exif, "XMP": about.xmp, "the colour profile": about.profile}
        held |= {"resolution": about.resolution} if format.name == "GIF" else {}
        lost = [f"{name} is lost, as {format.name} has no place for it" for name, block in held.items() if block]
    if format.name == "JPEG":
        for name in ("exif", "xmp"):
            if len(options[name] or b"") > _SEGMENT:
                lost.append(f"{name} is lost: its {len(options.pop(name)):,} bytes do not fit into a JPEG file")
        options |= {"quality": quality or DEFAULT_QUALITY, "subsampling": 0, "extra": b"".join(about.blocks("JPEG"))}
    if format.name == "WebP":
        options |= {"lossless": quality is None, "quality": quality or 75, "exact": True}
    if about.resolution and format.name in ("JPEG", "BMP"):
        options["dpi"] = about.resolution
    if about.resolution and format.name == "WebP" and not about.exif:
        lost.append("resolution is lost, as WebP has no place for it outside Exif")
    options = {name: value for name, value in options.items() if value is not None}
    return save(pictures, format.name, **options), lost


def save(pictures: Sequence[Picture], format: str, **options: object) -> bytes:
    """Save pictures with Pillow, frames with their durations."""
    images = [_image(picture, format) for picture in pictures]
    if len(images) > 1:
        options |= {"save_all": True, "append_images": images[1:], "duration": [p.duration for p in pictures]}
        if pictures[0].loop is not None:
            options["loop"] = pictures[0].loop
    if format == "GIF":
        options |= {"disposal": 2, "optimize": False}  # frames are whole
    stream = io.BytesIO()
    images[0].save(stream, format, **options)
    return stream.getvalue()


def _image(picture: Picture, format: str) -> Image.Image:
    if picture.alpha is None:
        return Image.fromarray(picture.pixels)
    if format == "GIF":
        return _indexed(picture.pixels, picture.alpha)
    return Image.fromarray(np.dstack([picture.pixels, picture.alpha]))


def _indexed(pixels: np.ndarray, alpha: np.ndarray) -> Image.Image:
    """With a colour that is transparent; Pillow's own way has no more than steps of 16 for the others."""
    colours = Image.fromarray(pixels).convert("RGB").quantize(255)
    indices = np.array(colours)
    indices[alpha < 128] = 255
    image = Image.fromarray(indices)
    image.putpalette((colours.getpalette() or []) + [0] * (3 * 256 - len(colours.getpalette() or [])))
    image.info["transparency"] = 255
    return image
