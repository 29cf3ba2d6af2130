from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from moceir import MoCEIR, Restorer
from moceir.data.images import ImageError, read_alpha, read_image, write_image
from moceir.inference.restore import plan

Make = Callable[..., MoCEIR]


def test_restoring_is_network_then_rounding_then_the_filter_if_asked(
    make_network: Make, photograph: np.ndarray
) -> None:
    network = make_network()
    x = torch.from_numpy(photograph).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        restored = (network(x)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    plain = Restorer(network, mac_budget=None).restore(photograph)
    assert np.abs(plain.astype(int) - restored).max() <= 1  # what lies between two levels may be rounded either way
    assert (plain != restored).mean() < 1e-3
    filtered = Restorer(network, mac_budget=None, post_filter=True).restore(photograph)
    expected = cv2.bilateralFilter(np.ascontiguousarray(plain), d=3, sigmaColor=10, sigmaSpace=10)
    assert np.array_equal(filtered, expected)
    assert not np.array_equal(filtered, plain)


def test_restorer_leaves_the_network_alone(make_network: Make) -> None:
    network = make_network().train()
    restorer = Restorer(network)
    assert network.training
    assert network.mac_budget is None
    assert restorer.engine.mac_budget == 30
    assert Restorer(network, mac_budget=None).engine.mac_budget is None


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)])
def test_other_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected a uint8 \(H, W, 3\) RGB array"):
        Restorer(MoCEIR()).restore(image)


def test_unknown_device_is_explained() -> None:
    with pytest.raises(ValueError, match="device nonsense cannot be used"):
        Restorer(MoCEIR(), device="nonsense")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".PNG"])
def test_every_format_in_and_out(photograph: np.ndarray, tmp_path: Path, suffix: str) -> None:
    write_image(tmp_path / f"in{suffix}", photograph)
    Restorer(MoCEIR()).restore_file(tmp_path / f"in{suffix}", tmp_path / "new" / f"out{suffix}")
    restored = read_image(tmp_path / "new" / f"out{suffix}")
    assert restored.shape == photograph.shape
    lossless = suffix.lower() not in (".jpg", ".jpeg")
    assert np.abs(restored.astype(int) - photograph).mean() < (1e-9 if lossless else 3)


def test_transparency_is_kept(photograph: np.ndarray, tmp_path: Path) -> None:
    alpha = np.arange(photograph[..., 0].size, dtype=np.uint8).reshape(photograph.shape[:2])
    write_image(tmp_path / "in.png", photograph, alpha=alpha)
    Restorer(MoCEIR()).restore_file(tmp_path / "in.png", tmp_path / "out.png")
    kept = read_alpha(tmp_path / "out.png")
    assert kept is not None
    assert np.array_equal(kept, alpha)


def test_failed_write_leaves_the_old_file_and_nothing_else(
    photograph: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.png"
    target.write_bytes(b"old")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ImageError, match=r"out\.png: could not be written \(No space left on device\)"):
        write_image(target, photograph)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.fixture
def album(tmp_path: Path, photograph: np.ndarray) -> Path:
    for name in ("a.png", "deep/b.jpg", "deep/er/c.bmp", ".hidden/d.png"):
        write_image(tmp_path / "album" / name, photograph)
    (tmp_path / "album" / "notes.txt").write_text("no picture")
    return tmp_path / "album"


def targets(output: Path, *inputs: object, **options: str) -> list[str]:
    return [job.target.relative_to(output).as_posix() for job in plan(map(str, inputs), output, **options)]


def test_folders_keep_their_layout(album: Path, tmp_path: Path) -> None:
    assert targets(tmp_path / "out", album) == ["a.png", "deep/b.jpg", "deep/er/c.bmp"]
    assert targets(tmp_path / "out", album, suffix=".png") == ["a.png", "deep/b.png", "deep/er/c.png"]


def test_globs_keep_the_layout_below_their_first_folder(album: Path, tmp_path: Path) -> None:
    assert targets(tmp_path / "out", album / "**" / "*.jpg") == ["deep/b.jpg"]
    assert targets(tmp_path / "out", album / "d*" / "*.jpg") == ["deep/b.jpg"]
    assert targets(tmp_path / "out", album / "deep" / "*") == ["b.jpg"]


def test_one_file_may_be_given_a_name(album: Path, tmp_path: Path) -> None:
    assert plan([str(album / "a.png")], tmp_path / "better.jpg")[0].target == tmp_path / "better.jpg"
    assert targets(tmp_path / "out", album / "a.png") == ["a.png"]


def test_output_inside_the_input_is_not_restored_again(album: Path) -> None:
    write_image(album / "restored" / "a.png", read_image(album / "a.png"))
    assert targets(album / "restored", album) == ["a.png", "deep/b.jpg", "deep/er/c.bmp"]


def test_plans_that_would_lose_pictures_are_refused(album: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="would be written over"):
        plan([str(album)], album)
    with pytest.raises(ValueError, match="would be written over"):  # one input's target is another's source
        plan([str(album / "deep"), str(album / "deep" / "er")], album / "deep")
    with pytest.raises(ValueError, match="the name of a picture"):
        plan([str(album)], tmp_path / "one.png")
    with pytest.raises(ValueError, match="its format is not"):
        plan([str(album / "a.png")], tmp_path / "one.jpg", suffix=".png")
    write_image(tmp_path / "a.png", read_image(album / "a.png"))
    with pytest.raises(ValueError, match="would both be written to"):
        plan([str(album / "a.png"), str(tmp_path / "a.png")], tmp_path / "out")
    with pytest.raises(ValueError, match="absent: no such file"):
        plan([str(tmp_path / "absent")], tmp_path / "out")
