from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from moceir.pictures.arrays import picture_size, read_picture, write_picture
from moceir.pictures.files import find_pictures
from moceir.pictures.picture import PictureError


def test_grey_deep_and_transparent_pictures_become_8_bit_rgb(tmp_path: Path) -> None:
    grey = np.full((4, 5), 77, np.uint8)
    variants = {
        "grey": grey,
        "deep": np.full((4, 5, 3), 77 * 257, np.uint16),
        "transparent": np.dstack([grey] * 3 + [np.zeros_like(grey)]),
    }
    for name, pixels in variants.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels)
        picture = read_picture(tmp_path / f"{name}.png")
        assert picture.dtype == np.uint8
        assert np.array_equal(picture, np.full((4, 5, 3), 77)), name


def test_cmyk_becomes_rgb(tmp_path: Path, photograph: np.ndarray) -> None:
    """The result equals that of Pillow, which also ignores colour profiles."""
    Image.fromarray(photograph).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.mode == "CMYK"
        expected = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(read_picture(tmp_path / "a.jpg") - expected).max() <= 2
    assert picture_size(tmp_path / "a.jpg") == photograph.shape[:2]


def test_channels_are_red_green_blue(tmp_path: Path) -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    write_picture(tmp_path / "red.png", red)
    assert np.array_equal(read_picture(tmp_path / "red.png"), red)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    write_picture(path, np.zeros((10, 20, 3), np.uint8))
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)  # orientation 6: turn by 90°
    exif = b"Exif\0\0" + tiff
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    assert read_picture(path).shape == (20, 10, 3)
    assert picture_size(path) == (20, 10)


def test_absurd_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    write_picture(path, np.zeros((4, 4, 3), np.uint8))
    header = b"IHDR" + struct.pack(">II", 40000, 40000) + path.read_bytes()[24:29]
    path.write_bytes(path.read_bytes()[:12] + header + struct.pack(">I", zlib.crc32(header)) + path.read_bytes()[33:])
    with pytest.raises(PictureError, match=r"huge\.png: 1,600,000,000 pixels; --max-pixels allows 250,000,000"):
        read_picture(path)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    for name, message in {
        "empty.png": "the file is empty",
        "text.jpg": "not a readable picture",
        "absent.png": "could not be read",
    }.items():
        for read in (read_picture, picture_size):
            with pytest.raises(PictureError, match=f"{name}: {message}"):
                read(tmp_path / name)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    write_picture(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    assert picture_size(path) == (64, 64)
    data = path.read_bytes()
    for length in (len(data) // 2, len(data) * 9 // 10):
        path.write_bytes(data[:length])
        for read in (read_picture, picture_size):
            with pytest.raises(PictureError, match=f"cut{suffix}: not a readable picture"):
                read(path)


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"a\.psd: cannot write this format; use one of PNG, JPEG"):
        write_picture(tmp_path / "a.psd", np.zeros((2, 2, 3), np.uint8))


def test_finding_is_recursive_and_sorted_and_skips_hidden_files(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/c.jpeg", ".d.png", ".git/e.png", "f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.relative_to(tmp_path).as_posix() for path in find_pictures(tmp_path)] == ["a/c.jpeg", "b.PNG"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif", ".jp2", ".avif", ".gif"])
def test_views_of_any_strides_are_written(tmp_path: Path, photograph: np.ndarray, suffix: str) -> None:
    write_picture(tmp_path / f"whole{suffix}", np.ascontiguousarray(photograph[::-1, ::2]))
    write_picture(tmp_path / f"view{suffix}", photograph[::-1, ::2])
    assert (tmp_path / f"whole{suffix}").read_bytes() == (tmp_path / f"view{suffix}").read_bytes()
