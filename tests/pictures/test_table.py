"""Restores every kind of file with a network that changes nothing; the output must equal the input."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from cases import (
    HEIGHT,
    PROFILES,
    WIDTH,
    XMP,
    Case,
    all_cases,
    alpha,
    colours,
    exif,
    lab,
    pillow,
    profile_cases,
    refused_cases,
    rounded,
    tiff,
)
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from moceir import MoCEIR, Restorer, load_pretrained
from moceir.inference.folder import plan
from moceir.inference.restore import Report
from moceir.pictures import formats
from moceir.pictures.picture import PictureError

CASES = all_cases()
SOME_NAMES = {"greya8", "greya16", "rgba16", "premultiplied-u1", "premultiplied-u2", "premultiplied-f4", "rgba-f4"}


@pytest.fixture(scope="module")
def identity() -> Restorer:
    """Return a restorer with an untrained network, whose correction is zero, so that it returns its input."""
    network = MoCEIR(num_blocks=(1, 1), num_decoder_blocks=(1,), num_heads=(1, 2), num_refinement_blocks=1)
    return Restorer(network, mac_budget=None)


def look(path: Path) -> tuple[np.ndarray, np.ndarray | None, np.dtype]:
    """Read colours (H, W, 3) and alpha (H, W) in [0, 1], and the type of the values, with independent readers."""
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            values, extra = file.asarray(), [int(kind) for kind in file.pages[0].extrasamples]
    elif path.suffix == ".jxl":
        values, extra = imagecodecs.jpegxl_decode(path.read_bytes()), []
    elif path.suffix in (".png", ".jp2") or (path.suffix == ".avif" and b"pixi\0\0\0\0\3\x08" not in path.read_bytes()):
        values, extra = cv2.imread(str(path), cv2.IMREAD_UNCHANGED), []
        if values is None:  # OpenCV cannot read a JPEG 2000 of grey with alpha
            values = imagecodecs.jpeg2k_decode(path.read_bytes())
        elif values.ndim == 3:
            values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    else:
        with Image.open(path) as picture:
            shown = picture if picture.mode in ("L", "RGB", "RGBA") else picture.convert("RGBA")
            values, extra = np.asarray(shown), []
    values = values if values.ndim == 3 else values[..., None]
    scaled = values.astype(np.float64) / (np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1)
    if path.suffix == ".avif" and values.dtype == np.uint16:
        scaled *= 65535 / (4095 if values.max() > 1023 else 1023)
    alpha = scaled[..., -1] if scaled.shape[2] in (2, 4) else None
    shades = scaled[..., :3] if scaled.shape[2] > 2 else np.dstack([scaled[..., 0]] * 3)
    if extra == [1]:
        assert alpha is not None
        shades = np.where(alpha[..., None] > 0, shades / np.maximum(alpha[..., None], 1e-9), 0)
    return shades, alpha, values.dtype


def report_depth(case: Case) -> str:
    """Return the type of a case's values."""
    kind = case.name.split("-")[-1].split(".")[0]
    return str(np.dtype(kind)) if kind in ("u1", "u2", "f4") else f"uint{case.bits}"


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(-10 * np.log10(max(1e-12, np.mean((one - other) ** 2))))


def test_the_table_is_a_table() -> None:
    assert len(CASES) + len(list(profile_cases())) + len(list(refused_cases())) >= 120
    assert len({case.name for case in CASES}) == len(CASES)


class Restored(NamedTuple):
    source: Path
    target: Path
    report: Report


@pytest.fixture(scope="module")
def restored(identity: Restorer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bytes], Restored]:
    """Restore each file of the table once, because two tests check the result."""
    folder = tmp_path_factory.mktemp("table")
    (folder / "in").mkdir()
    made: dict[str, Restored] = {}

    def restore(name: str, data: bytes) -> Restored:
        if name not in made:
            source, target = folder / "in" / name, folder / "out" / name
            source.write_bytes(data)
            made[name] = Restored(source, target, identity.restore_file(source, target))
        return made[name]

    return restore


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_kind_of_file_keeps_its_values(restored: Callable[[str, bytes], Restored], case: Case) -> None:
    _, target, report = restored(case.name, case.data)
    assert (report.height, report.width, report.frames) == (HEIGHT, WIDTH, 1)
    shades, alpha, dtype = look(target)
    assert dtype.itemsize * 8 == (case.bits if case.bits != 12 else 16)
    seen = np.ones((HEIGHT, WIDTH), bool)
    if case.alpha is None:
        assert alpha is None or alpha.min() == 1
    else:
        assert alpha is not None
        assert psnr(alpha, case.alpha) >= min(case.psnr, 50)
        if "premultiplied" in case.name or case.name == "clear.gif":  # these lose the colour of transparent pixels
            seen = case.alpha > 0.5
    assert psnr(shades[seen], case.colours[seen]) >= case.psnr
    if case.bits > 8 and case.psnr == 50:
        assert psnr(shades[seen], case.colours[seen]) > (65 if "f2" in case.name or "12" in case.name else 85)
    if "grey" in case.name:
        assert np.array_equal(shades[..., 0], shades[..., 2])


SOME = [case for case in CASES if case.name.split(".")[0] in SOME_NAMES]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".avif", ".jp2", ".jpg", ".bmp"])
@pytest.mark.parametrize("case", SOME, ids=[case.name for case in SOME])
def test_every_kind_becomes_every_other(identity: Restorer, tmp_path: Path, case: Case, suffix: str) -> None:
    source, target = tmp_path / case.name, tmp_path / f"out{suffix}"
    source.write_bytes(case.data)
    report = identity.restore_file(source, target, quality=100 if suffix in (".avif", ".jpg") else None)
    shades, alpha, _ = look(target)
    seen = np.ones((HEIGHT, WIDTH), bool) if case.alpha is None else case.alpha > 0.5
    assert psnr(shades[seen], case.colours[seen]) > 36
    if case.alpha is not None and suffix not in (".jpg", ".bmp"):
        assert alpha is not None
        assert psnr(alpha, case.alpha) > 40
    assert any("transparency is lost" in note for note in report.warnings) == (
        case.alpha is not None and suffix in (".jpg", ".bmp")
    )
    assert any(" became uint" in note for note in report.warnings) == (report.depth != report_depth(case))


@pytest.mark.parametrize(("suffix", "name", "data"), [pytest.param(*c, id=f"{c[1]}{c[0]}") for c in profile_cases()])
def test_profiles_are_kept(identity: Restorer, tmp_path: Path, suffix: str, name: str, data: bytes) -> None:
    """An independent reader finds the profiles; LittleCMS gives ΔE76 against the source."""
    (tmp_path / f"in{suffix}").write_bytes(data)
    quality = 100 if suffix in (".jpg", ".avif") else None  # lower qualities would measure the loss of compression
    identity.restore_file(tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", quality=quality)
    if suffix == ".jp2":  # Pillow does not read its profiles
        assert PROFILES[name] in (tmp_path / "out.jp2").read_bytes()
    else:
        with Image.open(tmp_path / f"out{suffix}") as picture:
            assert picture.info["icc_profile"] == PROFILES[name]
    before, after = (rounded(look(tmp_path / f"{place}{suffix}")[0], 8) for place in ("in", "out"))
    differences = lab(after, PROFILES[name]) - lab(before, PROFILES[name])
    # The 8-bit YCbCr of AVIF rounds once more.
    assert np.sqrt((differences**2).sum(axis=-1)).mean() <= (1.5 if suffix == ".avif" else 1)


@pytest.mark.parametrize(("name", "data", "message"), [pytest.param(*c, id=c[0]) for c in refused_cases()])
def test_unsupported_files_are_rejected_by_name(
    identity: Restorer, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(PictureError) as error:
        identity.restore_file(tmp_path / name, tmp_path / "out" / name)
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert message in str(error.value)
    assert not list((tmp_path / "out").iterdir())
    assert capfd.readouterr().err == ""  # no library says anything without the file's name


#: Groups and tags of exiftool that describe the storage of pixels, not the picture.
_STORED = {
    "Adobe", "Composite", "ExifTool", "File", "ItemList", "JFIF", "Meta", "PNG", "QuickTime", "RIFF", "SourceFile",
    "System",
}  # fmt: skip
_STRUCTURE = {
    "BitsPerComponent", "BitsPerPixel", "BitsPerSample", "ColorMap", "Compression", "ExtraSamples", "ImageHeight",
    "ImageWidth", "JPEGTables", "Orientation", "PhotometricInterpretation", "PlanarConfiguration", "Predictor",
    "PreviewImage", "PreviewImageLength", "PreviewImageStart", "ReferenceBlackWhite", "RowsPerStrip", "SampleFormat",
    "SamplesPerPixel", "StripByteCounts", "StripOffsets", "TileByteCounts", "TileLength", "TileOffsets", "TileWidth",
    "TransparentColor", "XMPToolkit", "YCbCrPositioning", "YCbCrSubSampling",
}  # fmt: skip


def tags(*paths: Path) -> dict[str, dict[str, object]]:
    """Return the metadata that exiftool finds in files, by file name, except tags about storage."""
    command = ["exiftool", "-json", "-G1", "-n", *map(str, paths)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return {
        Path(found["SourceFile"]).name: {
            tag: value
            for tag, value in found.items()
            if tag.split(":")[0] not in _STORED and tag.split(":")[-1] not in _STRUCTURE
        }
        for found in json.loads(run.stdout)
    }


def described(suffix: str, *, orientation: int = 1, order: str = "<") -> bytes:
    """Write a picture with Exif, XMP, a profile and a resolution, as far as the format supports them."""
    picture = Image.fromarray(rounded(colours(), 8))
    block, profile = exif(orientation, order), PROFILES["AdobeRGB"]
    options: dict = {"exif": b"Exif\0\0" + block, "icc_profile": profile, "xmp": XMP}
    if suffix == ".jpg":
        return pillow(picture, "JPEG", quality=95, dpi=(300, 240), comment=b"a comment", **options)
    if suffix == ".webp":
        return pillow(picture, "WEBP", lossless=True, **options)
    if suffix == ".avif":
        return pillow(picture, "AVIF", quality=95, **options)
    if suffix == ".tif":
        return pillow(picture, "TIFF", exif=block, icc_profile=profile, dpi=(300, 240))
    about = PngInfo()
    about.add_itxt("XML:com.adobe.xmp", XMP.decode())
    about.add_text("Title", "a title")
    return pillow(picture, "PNG", exif=block, icc_profile=profile, dpi=(300, 240), pnginfo=about)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool (Debian: libimage-exiftool-perl)")
def test_the_metadata_of_the_whole_table(restored: Callable[[str, bytes], Restored]) -> None:
    files = [(case.name, case.data) for case in CASES]
    files += [(f"{name}{suffix}", data) for suffix, name, data in profile_cases()]
    both = [restored(*file) for file in files]
    assert len(both) >= 120
    before, after = tags(*(one.source for one in both)), tags(*(one.target for one in both))
    different = {}
    for name, found in before.items():
        if re.match("turned[5-8]", name) and "ExifIFD:ExifImageWidth" in found:
            sides = "ExifIFD:ExifImageWidth", "ExifIFD:ExifImageHeight"
            found |= zip(sides, [found[side] for side in reversed(sides)], strict=True)
        different |= {
            f"{name}: {tag}": (value, after[name].get(tag))
            for tag, value in found.items()
            if after[name].get(tag) != value
        }
    assert different == {"bigtiff.tif: IFD0:Software": ("tifffile.py", None)}  # a warning reports it
    assert sum(map(len, before.values())) > 900


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool (Debian: libimage-exiftool-perl)")
@pytest.mark.parametrize(
    ("source", "target"),
    [(kind, kind) for kind in (".jpg", ".png", ".webp", ".avif", ".tif")]
    + [(".jpg", ".tif"), (".jpg", ".png"), (".tif", ".jpg"), (".png", ".tif"), (".jpg", ".jp2"), (".tif", ".webp")],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_metadata_is_kept_tag_by_tag(identity: Restorer, tmp_path: Path, source: str, target: str, order: str) -> None:
    (tmp_path / f"in{source}").write_bytes(described(source, order=order))
    identity.restore_file(tmp_path / f"in{source}", tmp_path / f"out{target}")
    before, after = tags(tmp_path / f"in{source}", tmp_path / f"out{target}").values()
    assert before["IFD0:Make"] == "Camera & Co"
    assert before["ExifIFD:ISO"] == 800
    assert before["GPS:GPSLatitudeRef"] == "N"
    missing = {tag: value for tag, value in before.items() if after.get(tag) != value}
    if source != target:  # formats store the resolution differently; another test checks it
        missing = {tag: value for tag, value in missing.items() if "Resolution" not in tag and "pHYs" not in tag}
    assert not missing


def test_the_resolution_is_kept(identity: Restorer, tmp_path: Path) -> None:
    for source in (".jpg", ".png", ".tif"):
        (tmp_path / f"in{source}").write_bytes(described(source))
        for target in (".jpg", ".png", ".tif", ".bmp"):
            identity.restore_file(tmp_path / f"in{source}", tmp_path / f"out{target}")
            with Image.open(tmp_path / f"out{target}") as picture:
                assert picture.info["dpi"] == pytest.approx((300, 240), abs=0.02), (source, target)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_the_orientation_is_reset_and_the_resolution_turned(identity: Restorer, tmp_path: Path, suffix: str) -> None:
    data = described(suffix, orientation=6).replace(b'tiff:Orientation="1"', b'tiff:Orientation="6"')
    (tmp_path / f"in{suffix}").write_bytes(data)
    identity.restore_file(tmp_path / f"in{suffix}", tmp_path / f"out{suffix}")
    with Image.open(tmp_path / f"out{suffix}") as picture:
        assert picture.size == (HEIGHT, WIDTH)
        assert picture.getexif().get(0x0112, 1) == 1
        below = picture.getexif().get_ifd(0x8769)
        if suffix != ".tif":
            assert (below[0xA002], below[0xA003]) == (HEIGHT, WIDTH)
        if "dpi" in picture.info:
            assert picture.info["dpi"] == pytest.approx((240, 300), abs=0.02)
    assert b'tiff:Orientation="6"' not in (tmp_path / f"out{suffix}").read_bytes()


def frames() -> list[Image.Image]:
    return [Image.fromarray(rounded(np.roll(colours(), 7 * index, axis=1), 8)) for index in range(4)]


@pytest.mark.parametrize(("suffix", "format"), [(".webp", "WEBP"), (".png", "PNG"), (".gif", "GIF"), (".avif", "AVIF")])
def test_animations_keep_all_frames_and_times(identity: Restorer, tmp_path: Path, suffix: str, format: str) -> None:
    options: dict = {"lossless": True} if format == "WEBP" else {}
    times = [40, 80, 120, 160]
    first, *others = frames()
    data = pillow(first, format, save_all=True, append_images=others, duration=times, loop=3, **options)
    (tmp_path / f"in{suffix}").write_bytes(data)
    report = identity.restore_file(tmp_path / f"in{suffix}", tmp_path / f"out{suffix}")
    assert report.frames == 4
    with Image.open(tmp_path / f"in{suffix}") as before, Image.open(tmp_path / f"out{suffix}") as after:
        assert after.n_frames == 4
        assert after.info.get("loop") == before.info.get("loop")
        for index, time in enumerate(times):
            before.seek(index)
            after.seek(index)
            before.load()
            after.load()
            assert after.info["duration"] == time
            was, now = (np.asarray(picture.convert("RGB")) / 255 for picture in (before, after))
            assert psnr(was, now) > 33, index


def test_pages_keep_their_sizes_and_descriptions(identity: Restorer, tmp_path: Path) -> None:
    pages = [rounded(colours(), 16), rounded(colours()[:10], 16), rounded(colours()[:, :9], 16)]
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        for index, page in enumerate(pages):
            file.write(page, photometric="rgb", description=f"page {index}", metadata=None)
    (tmp_path / "in.tif").write_bytes(stream.getvalue())
    assert identity.restore_file(tmp_path / "in.tif", tmp_path / "out.tif").frames == 3
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        for index, page in enumerate(pages):
            assert file.pages[index].tags["ImageDescription"].value == f"page {index}"
            assert np.array_equal(file.pages[index].asarray(), page)


def test_several_pictures_do_not_become_one(identity: Restorer, tmp_path: Path) -> None:
    first, *others = frames()
    (tmp_path / "in.gif").write_bytes(pillow(first, "GIF", save_all=True, append_images=others))
    with pytest.raises(PictureError, match="JPEG holds one picture, not 4; use TIFF, PNG, WebP or GIF"):
        identity.restore_file(tmp_path / "in.gif", tmp_path / "out.jpg")


def test_metadata_that_a_format_cannot_hold_is_reported(identity: Restorer, tmp_path: Path) -> None:
    deep = rounded(np.dstack([colours(), colours()[..., 0]]), 16)
    (tmp_path / "in.tif").write_bytes(tiff(deep, photometric="rgb", extrasamples=["unassalpha"]))
    report = identity.restore_file(tmp_path / "in.tif", tmp_path / "out.jpg")
    assert report.warnings == [
        "uint16 became uint8, as JPEG holds",
        "transparency is lost, as JPEG has none",
    ]
    (tmp_path / "in.jpg").write_bytes(described(".jpg"))
    lost = identity.restore_file(tmp_path / "in.jpg", tmp_path / "out.gif").warnings
    assert "Exif is lost, as GIF has no place for it" in lost
    assert "the colour profile is lost, as GIF has no place for it" in lost


def test_an_mpo_is_its_first_picture_and_says_so(identity: Restorer, tmp_path: Path) -> None:
    first, *others = frames()
    (tmp_path / "in.jpg").write_bytes(pillow(first, "MPO", save_all=True, append_images=others[:1]))
    report = identity.restore_file(tmp_path / "in.jpg", tmp_path / "out.jpg")
    assert report.frames == 1
    assert report.warnings == ["a second picture in the file (a preview, a gain map, the other eye) is left out"]


def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path) -> None:
    """A network with random weights restores a gradient that spans a few 8-bit levels."""
    ramp = np.linspace(20000, 24000, 256).round().astype(np.uint16)
    cv2.imwrite(str(tmp_path / "in.png"), np.dstack([np.tile(ramp, (32, 1))] * 3))
    restorer = Restorer(load_pretrained())
    restorer.restore_file(tmp_path / "in.png", tmp_path / "out.png")
    levels = len(np.unique(cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED)))
    eight = restorer.restore(
        (cv2.imread(str(tmp_path / "in.png"), cv2.IMREAD_UNCHANGED) / 257).round().astype(np.uint8)
    )
    assert len(np.unique(eight)) < 32
    assert levels > 200


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("clear", [False, True])
def test_heic(identity: Restorer, tmp_path: Path, bits: int, clear: bool) -> None:
    heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif: pip install 'moceir[heic]'")
    values = rounded(np.dstack([colours(), alpha()]) if clear else colours(), bits)
    mode = ("RGBA" if clear else "RGB") + (";16" if bits == 16 else "")
    picture = heif.from_bytes(mode, (WIDTH, HEIGHT), values.tobytes())
    picture.info["icc_profile"], picture.info["icc_profile_type"] = PROFILES["ProPhoto"], "prof"
    picture.save(tmp_path / "in.heic", quality=100, chroma=444, exif=b"Exif\0\0" + exif(), xmp=XMP)
    report = identity.restore_file(tmp_path / "in.heic", tmp_path / "out.heic", quality=100)
    assert report.depth == f"uint{bits}"
    seen = heif.open_heif(tmp_path / "out.heic", convert_hdr_to_8bit=False)
    out = np.asarray(seen)
    white = 255 if bits == 8 else 65535
    assert psnr(out[..., :3] / white, colours()) > 40
    assert not clear or psnr(out[..., 3] / white, alpha()) > 45
    assert seen.info["icc_profile"] == PROFILES["ProPhoto"]
    assert seen.info["exif"].removeprefix(b"Exif\0\0") == exif()
    assert seen.info["xmp"] == XMP


def test_jpeg_xl(identity: Restorer, tmp_path: Path) -> None:
    pyjpegxl = pytest.importorskip("pyjpegxl", reason="needs pyjpegxl: pip install 'moceir[jxl]'")
    light = pyjpegxl.encode_from_numpy(colours().astype(np.float32), lossless=True)  # linear
    (tmp_path / "in.jxl").write_bytes(light)
    assert identity.restore_file(tmp_path / "in.jxl", tmp_path / "out.tif").depth == "float32"
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert np.allclose(file.asarray(), colours(), atol=1e-6)
        assert file.pages[0].iccprofile == pyjpegxl.probe(light).icc
    wide = pillow(Image.fromarray(rounded(colours(), 8)), "PNG", icc_profile=PROFILES["AdobeRGB"])
    (tmp_path / "in.png").write_bytes(wide)
    moving = "/woYQMEAAopLAggCoggAAGwASxiLFcIRMm8F+i8QAwAHabMtPIjLqQKgExQACCIAACBAAIgSAEQASxiLFVJcuk/21R1AVApwpxQ="
    (tmp_path / "moving.jxl").write_bytes(base64.b64decode(moving))  # two frames, encoded by libjxl's cjxl
    (tmp_path / "cut.jxl").write_bytes(light[: len(light) // 2])
    for source, message in {
        "in.png": r"out\.jxl: JPEG XL is written in sRGB only",
        "in.jxl": r"out\.jxl: JPEG XL is written in sRGB only",
        "moving.jxl": r"moving\.jxl: an animated JPEG XL",
        "cut.jxl": r"cut\.jxl: not a readable picture",
    }.items():
        with pytest.raises(PictureError, match=message):
            identity.restore_file(tmp_path / source, tmp_path / "out.jxl")
    (tmp_path / "in.jpg").write_bytes(pillow(Image.fromarray(rounded(colours(), 8)), "JPEG", quality=95))
    for quality in (30, 95):
        identity.restore_file(tmp_path / "in.jpg", tmp_path / f"{quality}.jxl", quality=quality)
    assert (tmp_path / "30.jxl").stat().st_size < (tmp_path / "95.jxl").stat().st_size


def negative() -> bytes:
    """Write a camera's raw file (DNG 1.4) that shows a grey ramp."""
    ramp = np.tile(np.linspace(4000, 44000, 96).astype(np.uint16), (64, 1))
    matrix = (0.6722, -0.0635, -0.0963, -0.4287, 1.2460, 0.2028, -0.0908, 0.2162, 0.5668)
    tags = [
        (50706, "B", 4, (1, 4, 0, 0), True),
        (50707, "B", 4, (1, 1, 0, 0), True),
        (50708, "s", 0, "A camera", True),
        (33421, "H", 2, (2, 2), True),
        (33422, "B", 4, (0, 1, 1, 2), True),
        (50721, "2i", 9, tuple(part for value in matrix for part in (int(value * 10000), 10000)), True),
        (50728, "2I", 3, (1, 1, 1, 1, 1, 1), True),
        (50717, "I", 1, 65535, True),
        (271, "s", 0, "Camera & Co", True),
    ]
    return tiff(ramp, photometric="cfa", extratags=tags, software=False)


def test_camera_raw_becomes_a_tiff_of_16_bits(identity: Restorer, tmp_path: Path) -> None:
    pytest.importorskip("rawpy", reason="needs rawpy: pip install 'moceir[raw]'")
    (tmp_path / "in.dng").write_bytes(negative())
    (job,) = plan([str(tmp_path / "in.dng")], tmp_path / "out").jobs
    assert job.target.name == "in.tif"
    assert identity.restore_file(*job).depth == "uint16"
    with tifffile.TiffFile(job.target) as file:
        values = file.asarray()
        assert file.pages[0].tags["Make"].value == "Camera & Co"
    assert values.shape == (64, 96, 3)
    assert len(np.unique(values)) > len(np.unique(values // 257))
    assert (np.diff(values[32].astype(int).sum(axis=-1)) >= 0).mean() > 0.95


def test_camera_raw_is_not_taken_for_its_preview(identity: Restorer, tmp_path: Path) -> None:
    (tmp_path / "in.tif").write_bytes(negative())
    with pytest.raises(PictureError, match=r"camera raw \(DNG\), of which this would be a preview"):
        identity.restore_file(tmp_path / "in.tif", tmp_path / "out.tif")


def test_files_that_need_an_extra_name_it(identity: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda _: None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x1cftypheic" + bytes(40))
    with pytest.raises(PictureError, match=r"a\.heic: HEIC needs pillow_heif: pip install 'moceir\[heic\]'"):
        identity.restore_file(tmp_path / "a.heic", tmp_path / "out.png")


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".png", ".webp", ".avif", ".jp2"])
def test_a_picture_with_damaged_exif_is_restored(identity: Restorer, tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rounded(colours(), 8))
    for index in range(12):
        block = bytearray(exif(6, "<>"[index % 2]))
        for place in rng.integers(0 if index % 3 == 0 else 8, len(block), 3):
            block[place] = rng.integers(0, 256)
        data = pillow(picture, "JPEG", exif=b"Exif\0\0" + bytes(block[: len(block) - 7 * index]))
        (tmp_path / "in.jpg").write_bytes(data)
        report = identity.restore_file(tmp_path / "in.jpg", tmp_path / f"out{suffix}")
        assert {report.height, report.width} == {HEIGHT, WIDTH}


def test_a_picture_with_a_damaged_chunk_is_restored(
    identity: Restorer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(described(".png"))
    data[data.index(b"Title") + 7] ^= 1
    (tmp_path / "in.png").write_bytes(data)
    report = identity.restore_file(tmp_path / "in.png", tmp_path / "out.png")
    assert report.warnings == ["a damaged tEXt chunk is left out"]
    assert psnr(look(tmp_path / "out.png")[0], colours()) > 50
    assert capfd.readouterr().err == ""
