"""Small picture files of all common kinds, written by independent encoders, with their expected values."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import NamedTuple

import cv2
import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms

HEIGHT, WIDTH = 24, 36


class Case(NamedTuple):
    """A file, and the expected output of a network that changes nothing."""

    name: str
    """Name of the file, with the suffix of its format."""
    data: bytes
    colours: np.ndarray
    """(H, W, 3) in [0, 1]."""
    alpha: np.ndarray | None
    """(H, W) in [0, 1]."""
    bits: int
    """Type of the output's values."""
    psnr: float
    """Minimum PSNR in dB between the source's expected values and the output."""


def colours() -> np.ndarray:
    """Return smooth colours (H, W, 3) in [0, 1], with a different, asymmetric pattern in each channel."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    down, across = rows / (HEIGHT - 1), columns / (WIDTH - 1)
    return np.stack([across, 0.2 + 0.6 * down**2, 0.9 - 0.7 * across * down], axis=-1)


def alpha() -> np.ndarray:
    """Return values (H, W) in [0, 1] that include both 0 and 1."""
    return np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)


def grey() -> np.ndarray:
    """(H, W) in [0, 1]."""
    return colours()[..., 2]


def rounded(values: np.ndarray, bits: int) -> np.ndarray:
    """Convert values in [0, 1] to integers with the given number of bits."""
    return np.rint(values * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def pillow(picture: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def tiff(values: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, metadata=None, **options)
    return stream.getvalue()


def three(values: np.ndarray) -> np.ndarray:
    return np.dstack([values] * 3)


def icc(red: tuple, green: tuple, blue: tuple, gamma: float) -> bytes:
    """Build a profile (ICC.1:2001-04) from the XYZ of three primaries at D50 and a gamma."""

    def xyz(values: tuple) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))
    text = b"made for a test\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)
    parts = {
        b"desc": description + bytes(-len(description) % 4),
        b"cprt": b"text\0\0\0\0" + text,
        b"wtpt": xyz((0.9642, 1.0, 0.8249)),
        b"rXYZ": xyz(red),
        b"gXYZ": xyz(green),
        b"bXYZ": xyz(blue),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, body = struct.pack(">I", len(parts)), b""
    start = 128 + 4 + 12 * len(parts)
    for tag, part in parts.items():
        table += tag + struct.pack(">II", start + len(body), len(part))
        body += part
    header = struct.pack(">I4sI4s4s4s12x4s", start + len(body), b"", 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return header.ljust(68, b"\0") + struct.pack(">iii", 63190, 65536, 54061) + bytes(48) + table + body


PROFILES = {
    "AdobeRGB": icc((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457), 2.2),
    "ProPhoto": icc((0.79767, 0.28804, 0.0), (0.13519, 0.71187, 0.0), (0.03134, 0.00009, 0.82521), 1.8),
}


def exif(orientation: int = 1, order: str = "<") -> bytes:
    """Build an Exif block with a camera, an orientation, an exposure and a location."""
    about = Image.Exif()
    about.endian = order
    about[0x010F], about[0x0110] = "Camera & Co", "Model 1"
    about[0x0112] = orientation
    about[0x0132] = "2026:11:24 10:20:30"
    about[0x8298] = "Somebody"
    below = about.get_ifd(0x8769)
    below[0x829A], below[0x8827], below[0x9003] = (1, 250), 800, "2026:11:24 10:20:30"
    below[0xA002], below[0xA003] = WIDTH, HEIGHT
    place = about.get_ifd(0x8825)
    place[1], place[2] = "N", (52.0, 31.0, 12.5)
    return about.tobytes().removeprefix(b"Exif\0\0")


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    b'xmp:Rating="4" xmp:Label="Blue" tiff:Orientation="1"/></rdf:RDF></x:xmpmeta>'
)


def with_exif_chunk(png: bytes, block: bytes) -> bytes:
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    return png[:33] + chunk + png[33:]


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """Invert the orientation, so that a viewer that applies it to the result shows ``values``."""
    ways: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda v: v,
        2: np.fliplr,
        3: lambda v: np.rot90(v, 2),
        4: np.flipud,
        5: lambda v: v.swapaxes(0, 1),
        6: lambda v: np.rot90(v, 1),
        7: lambda v: np.rot90(v, 2).swapaxes(0, 1),
        8: lambda v: np.rot90(v, -1),
    }
    return np.ascontiguousarray(ways[orientation](values))


def png_cases() -> Iterator[Case]:
    for bits in (8, 16):
        for name, planes in {"grey": (grey(),), "greya": (grey(), alpha()), "rgb": (colours(),)}.items():
            values = np.ascontiguousarray(rounded(np.dstack(planes), bits).squeeze())
            data = imagecodecs.png_encode(values)
            meaning = colours() if name == "rgb" else three(grey())
            yield Case(f"{name}{bits}.png", data, meaning, alpha() if name == "greya" else None, bits, 50)
        values = rounded(np.dstack([colours(), alpha()]), bits)
        data = cv2.imencode(".png", values[..., [2, 1, 0, 3]])[1].tobytes()
        yield Case(f"rgba{bits}.png", data, colours(), alpha(), bits, 50)
    indexed = Image.fromarray(rounded(colours(), 8)).quantize(64)
    shown = np.asarray(indexed.convert("RGB")) / 255
    yield Case("indexed.png", pillow(indexed, "PNG"), shown, None, 8, 90)
    clear = np.where(np.asarray(indexed) == 5, 0.0, 1.0)
    yield Case("indexed-clear.png", pillow(indexed, "PNG", transparency=5), shown, clear, 8, 90)
    steps = Image.fromarray(rounded(grey(), 8))
    clear = np.where(np.asarray(steps) == 100, 0.0, 1.0)
    yield Case("grey-clear.png", pillow(steps, "PNG", transparency=100), three(grey()), clear, 8, 50)
    line = Image.fromarray(grey() > 0.5)
    yield Case("1bit.png", pillow(line, "PNG"), three(np.asarray(line) * 1.0), None, 8, 90)
    few = Image.fromarray(rounded(colours(), 8)).quantize(4)
    data = pillow(few, "PNG", bits=2)
    yield Case("indexed-2bit.png", data, np.asarray(few.convert("RGB")) / 255, None, 8, 90)


def jpeg_cases() -> Iterator[Case]:
    rgb, steps = Image.fromarray(rounded(colours(), 8)), Image.fromarray(rounded(grey(), 8))
    yield Case("grey.jpg", pillow(steps, "JPEG", quality=95), three(grey()), None, 8, 38)
    for name, options in {
        "444": {"subsampling": 0},
        "420": {"subsampling": 2},
        "progressive": {"progressive": True},
        "restarts": {"restart_marker_blocks": 1},
    }.items():
        yield Case(f"{name}.jpg", pillow(rgb, "JPEG", quality=95, **options), colours(), None, 8, 32)
    cmyk = rgb.convert("CMYK")
    yield Case("cmyk.jpg", pillow(cmyk, "JPEG", quality=95), colours(), None, 8, 32)
    inks = 255 - np.asarray(cmyk)  # Adobe stores inverted inks
    ycck = imagecodecs.jpeg8_encode(np.ascontiguousarray(inks), 95, colorspace="CMYK", outcolorspace="YCCK")
    yield Case("ycck.jpg", bytes(ycck), colours(), None, 8, 32)
    yield Case("jpeg called.png", pillow(rgb, "JPEG", quality=95), colours(), None, 8, 32)


def other_cases() -> Iterator[Case]:
    rgb, steps = Image.fromarray(rounded(colours(), 8)), Image.fromarray(rounded(grey(), 8))
    clear = Image.fromarray(rounded(np.dstack([colours(), alpha()]), 8))
    yield Case("lossless.webp", pillow(rgb, "WEBP", lossless=True), colours(), None, 8, 50)
    yield Case("lossy.webp", pillow(rgb, "WEBP", quality=90), colours(), None, 8, 28)
    yield Case("rgba.webp", pillow(clear, "WEBP", lossless=True, exact=True), colours(), alpha(), 8, 50)
    yield Case("grey.webp", pillow(steps, "WEBP", lossless=True), three(grey()), None, 8, 50)
    yield Case("rgb.avif", pillow(rgb, "AVIF", quality=100, subsampling="4:4:4"), colours(), None, 8, 36)
    yield Case("rgba.avif", pillow(clear, "AVIF", quality=100, subsampling="4:4:4"), colours(), alpha(), 8, 36)
    for bits in (10, 12):
        data = imagecodecs.avif_encode(rounded(colours(), bits), level=100, bitspersample=bits)
        yield Case(f"{bits}bit.avif", bytes(data), colours(), None, 16, 33)
    yield Case("grey.gif", pillow(steps, "GIF"), three(grey()), None, 8, 50)
    indexed = rgb.quantize(64)
    yield Case("indexed.gif", pillow(indexed, "GIF"), np.asarray(indexed.convert("RGB")) / 255, None, 8, 40)
    hole = np.where(np.asarray(indexed) == 5, 0.0, 1.0)
    shown = np.asarray(indexed.convert("RGB")) / 255
    yield Case("clear.gif", pillow(indexed, "GIF", transparency=5), shown, hole, 8, 40)
    yield Case("rgb.bmp", pillow(rgb, "BMP"), colours(), None, 8, 50)
    yield Case("grey.bmp", pillow(steps, "BMP"), three(grey()), None, 8, 50)
    yield Case("indexed.bmp", pillow(indexed, "BMP"), shown, None, 8, 90)
    line = Image.fromarray(grey() > 0.5)
    yield Case("1bit.bmp", pillow(line, "BMP"), three(np.asarray(line) * 1.0), None, 8, 90)
    for bits in (8, 12, 16):
        kinds = {"grey": grey(), "rgb": colours(), "rgba": np.dstack([colours(), alpha()])}
        for name, values in kinds.items():
            exact = rounded(values, bits)
            data = imagecodecs.jpeg2k_encode(exact, level=0, codecformat="jp2", reversible=True, bitspersample=bits)
            meaning = three(grey()) if name == "grey" else colours()
            yield Case(f"{name}{bits}.jp2", bytes(data), meaning, alpha() if name == "rgba" else None, max(bits, 8), 50)


def tiff_cases() -> Iterator[Case]:
    for kind in ("u1", "u2", "f2", "f4", "f8"):
        dtype = np.dtype(kind)
        bits = dtype.itemsize * 8

        def stored(values: np.ndarray, dtype: np.dtype = dtype, bits: int = bits) -> np.ndarray:
            return rounded(values, bits) if dtype.kind == "u" else values.astype(dtype)

        yield Case(f"grey-{kind}.tif", tiff(stored(grey())), three(grey()), None, bits, 50)
        both = stored(np.dstack([grey(), alpha()]))
        options: dict = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]}
        yield Case(f"greya-{kind}.tif", tiff(both, **options), three(grey()), alpha(), bits, 50)
        yield Case(f"rgb-{kind}.tif", tiff(stored(colours()), photometric="rgb"), colours(), None, bits, 50)
        both = stored(np.dstack([colours(), alpha()]))
        options = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
        yield Case(f"rgba-{kind}.tif", tiff(both, **options), colours(), alpha(), bits, 50)
        multiplied = stored(np.dstack([colours() * alpha()[..., None], alpha()]))
        options = {"photometric": "rgb", "extrasamples": ["assocalpha"]}
        yield Case(f"premultiplied-{kind}.tif", tiff(multiplied, **options), colours(), alpha(), bits, 50)
    exact = rounded(colours(), 8)
    for name, options in {
        "lzw": {"compression": "lzw", "predictor": True},
        "zip": {"compression": "zlib"},
        "packbits": {"compression": "packbits"},
        "zstd": {"compression": "zstd"},
        "lossless-webp": {"compression": "webp", "compressionargs": {"lossless": True}},
        "strips": {"rowsperstrip": 5},
        "tiles": {"tile": (16, 16)},
        "big-endian": {"byteorder": ">"},
        "bigtiff": {"bigtiff": True},
    }.items():
        yield Case(f"{name}.tif", tiff(exact, photometric="rgb", **options), colours(), None, 8, 50)
    yield Case("jpeg.tif", tiff(exact, photometric="rgb", compression="jpeg"), colours(), None, 8, 30)
    ycbcr = pillow(Image.fromarray(exact), "TIFF", compression="jpeg", quality=95)
    yield Case("ycbcr.tif", ycbcr, colours(), None, 8, 32)
    planes = np.moveaxis(rounded(colours(), 16), -1, 0)
    yield Case("planes.tif", tiff(planes, photometric="rgb", planarconfig="separate"), colours(), None, 16, 50)
    yield Case("inverted.tif", tiff(255 - rounded(grey(), 8), photometric="miniswhite"), three(grey()), None, 8, 50)
    yield Case(
        "inverted16.tif", tiff(65535 - rounded(grey(), 16), photometric="miniswhite"), three(grey()), None, 16, 50
    )
    line = Image.fromarray(grey() > 0.5)
    black_and_white = three(np.asarray(line) * 1.0)
    yield Case("1bit.tif", pillow(line, "TIFF"), black_and_white, None, 8, 90)
    yield Case("fax.tif", pillow(line, "TIFF", compression="group4"), black_and_white, None, 8, 90)
    indexed = Image.fromarray(exact).quantize(64)
    yield Case("indexed.tif", pillow(indexed, "TIFF"), np.asarray(indexed.convert("RGB")) / 255, None, 8, 90)
    inks = np.asarray(Image.fromarray(exact).convert("CMYK"))
    yield Case("cmyk.tif", tiff(inks, photometric="separated"), colours(), None, 8, 45)
    yield Case("cmyk16.tif", tiff(inks * np.uint16(257), photometric="separated"), colours(), None, 8, 45)
    deep = tiff(rounded(colours(), 12), photometric="rgb", bitspersample=12)
    yield Case("12bit.tif", deep, colours(), None, 16, 50)


def orientation_cases() -> Iterator[Case]:
    for orientation in range(1, 9):
        block = exif(orientation)
        stored, clear = turned(colours(), orientation), turned(alpha(), orientation)
        picture = Image.fromarray(rounded(stored, 8))
        both = rounded(np.dstack([stored, clear]), 8)
        deep = rounded(np.dstack([stored, clear]), 16)
        data = pillow(picture, "JPEG", quality=95, subsampling=0, exif=b"Exif\0\0" + block)
        yield Case(f"turned{orientation}.jpg", data, colours(), None, 8, 32)
        data = with_exif_chunk(bytes(imagecodecs.png_encode(deep)), block)
        yield Case(f"turned{orientation}.png", data, colours(), alpha(), 16, 50)
        data = pillow(Image.fromarray(both), "WEBP", lossless=True, exact=True, exif=b"Exif\0\0" + block)
        yield Case(f"turned{orientation}.webp", data, colours(), alpha(), 8, 50)
        data = pillow(picture, "AVIF", quality=100, subsampling="4:4:4", exif=block)
        yield Case(f"turned{orientation}.avif", data, colours(), None, 8, 36)
        tag = (274, "H", 1, orientation, True)
        data = tiff(deep, photometric="rgb", extrasamples=["unassalpha"], extratags=[tag])
        yield Case(f"turned{orientation}.tif", data, colours(), alpha(), 16, 50)


def profile_cases() -> Iterator[tuple[str, str, bytes]]:
    """Yield suffix, profile, and a file with that profile."""
    exact, deep = rounded(colours(), 8), rounded(colours(), 16)
    picture = Image.fromarray(exact)
    for name, profile in PROFILES.items():
        yield ".jpg", name, pillow(picture, "JPEG", quality=95, subsampling=0, icc_profile=profile)
        yield ".png", name, pillow(picture, "PNG", icc_profile=profile)
        yield ".webp", name, pillow(picture, "WEBP", lossless=True, icc_profile=profile)
        yield ".avif", name, pillow(picture, "AVIF", quality=100, subsampling="4:4:4", icc_profile=profile)
        yield ".tif", name, tiff(deep, photometric="rgb", iccprofile=profile)
        yield ".jp2", name, _jp2(deep, profile)


def _jp2(values: np.ndarray, profile: bytes) -> bytes:
    data = bytes(imagecodecs.jpeg2k_encode(values, level=0, codecformat="jp2", reversible=True))
    start = data.index(b"colr") - 4
    colour = struct.pack(">I4s", 11 + len(profile), b"colr") + b"\2\0\0" + profile
    header = data.index(b"jp2h") - 4
    (length,) = struct.unpack_from(">I", data, header)
    data = data[:start] + colour + data[start + 15 :]
    return data[:header] + struct.pack(">I", length + len(colour) - 15) + data[header + 4 :]


def lab(values: np.ndarray, profile: bytes) -> np.ndarray:
    """Convert uint8 (H, W, 3) to CIE L*a*b* with LittleCMS."""
    space = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    picture = ImageCms.profileToProfile(Image.fromarray(values), space, ImageCms.createProfile("LAB"), outputMode="LAB")
    assert picture is not None
    planes = np.asarray(picture).astype(np.float64)
    return np.stack([planes[..., 0] / 2.55, *(plane.astype(np.int8) for plane in np.rollaxis(planes[..., 1:], 2))], -1)


def jpegxl_cases() -> Iterator[Case]:
    """Yield files that need an optional package."""
    import pyjpegxl

    for bits in (8, 16):
        kinds = {"grey": grey(), "greya": np.dstack([grey(), alpha()])}
        kinds |= {"rgb": colours(), "rgba": np.dstack([colours(), alpha()])}
        for name, values in kinds.items():
            data = pyjpegxl.encode_from_numpy(rounded(values, bits), lossless=True)
            meaning = three(grey()) if name.startswith("grey") else colours()
            yield Case(f"{name}{bits}.jxl", data, meaning, alpha() if name.endswith("a") else None, bits, 50)
    lossy = imagecodecs.jpegxl_encode(rounded(colours(), 8), distance=1.0, lossless=False, usecontainer=True)
    yield Case("lossy.jxl", bytes(lossy), colours(), None, 8, 38)


def refused_cases() -> Iterator[tuple[str, bytes, str]]:
    """Yield name, content, and a fragment of the expected message."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    whole = {
        ".png": bytes(imagecodecs.png_encode(noise)),
        ".jpg": pillow(picture, "JPEG", quality=95),
        ".webp": pillow(picture, "WEBP", lossless=True),
        ".gif": pillow(picture, "GIF"),
        ".bmp": pillow(picture, "BMP"),
        ".avif": pillow(picture, "AVIF"),
        ".jp2": bytes(imagecodecs.jpeg2k_encode(noise, level=0, codecformat="jp2")),
        ".tif": tiff(noise, photometric="rgb"),
        "-lzw.tif": tiff(noise, photometric="rgb", compression="lzw"),
        "-jpeg.tif": tiff(noise, photometric="rgb", compression="jpeg", rowsperstrip=16),
    }
    for suffix, data in whole.items():
        for share in (2, 90):
            cut = data[: len(data) * share // 100]
            yield f"cut to {share} %{suffix}", cut, "not a readable picture"
    whole["-zip.tif"] = tiff(noise, photometric="rgb", compression="zlib")
    for suffix in (".png", "-zip.tif"):  # the others have no checksums
        data = whole[suffix]
        middle = len(data) // 2
        yield f"hit{suffix}", data[:middle] + bytes(40) + data[middle + 40 :], "not a readable picture"
    yield "empty.png", b"", "the file is empty"
    yield "text.jpg", b"not a picture", "not a readable picture"
    yield "vector.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a readable picture"
    smooth = colours()
    for kind in ("i1", "i2", "i4", "u4"):
        values = (smooth * np.iinfo(kind).max).astype(kind)
        yield f"{kind}.tif", tiff(values, photometric="rgb"), f"values of type {np.dtype(kind)}"
    yield "complex.tif", tiff(smooth.astype(np.complex64), photometric="rgb"), "values of type complex64"
    for name, value in {"nan": np.nan, "inf": np.inf}.items():
        broken = smooth.astype(np.float32)
        broken[3, 4, 1] = value
        yield f"{name}.tif", tiff(broken, photometric="rgb"), "not finite"
    yield "hdr.tif", tiff((4 * smooth).astype(np.float32), photometric="rgb"), "from 0 to 4; scale them"
    yield "signed.tif", tiff((smooth - 0.5).astype(np.float32), photometric="rgb"), "scale them to 0 to 1"
    yield "lab.tif", tiff(rounded(smooth, 8), photometric="cielab"), "colours of kind CIELAB"
    yield "mosaic.tif", tiff(rounded(grey(), 16), photometric="cfa"), "colours of kind CFA"
    five = rounded(np.dstack([smooth, alpha(), alpha()]), 8)
    yield "five.tif", tiff(five, photometric="rgb", extrasamples=["unassalpha", "unspecified"]), "5 channels"
    header = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(bytes(3751)), b"IEND"]
    bomb = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    yield "bomb.png", b"\x89PNG\r\n\x1a\n" + bomb, "900,000,000 pixels; --max-pixels allows 250,000,000"
    size = whole[".jp2"].index(b"ihdr") + 4
    yield "bomb.jp2", whole[".jp2"][:size] + struct.pack(">II", 50000, 50000) + whole[".jp2"][size + 8 :], "pixels"


def all_cases() -> list[Case]:
    jpegxl = jpegxl_cases() if find_spec("pyjpegxl") else ()
    return [*png_cases(), *jpeg_cases(), *other_cases(), *tiff_cases(), *orientation_cases(), *jpegxl]
