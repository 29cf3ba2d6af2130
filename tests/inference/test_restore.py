from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from moceir import MoCEIR, NAFNet, Restorer
from moceir.inference.texture import put_back
from moceir.pictures.arrays import read_picture, write_picture
from moceir.pictures.picture import PictureError

Make = Callable[..., MoCEIR]


def test_restoring_is_network_then_rounding_then_the_filter_if_asked(
    make_network: Make, photograph: np.ndarray
) -> None:
    network = make_network()
    x = torch.from_numpy(photograph).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        restored = (network(x)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    plain = Restorer(network, mac_budget=None).restore(photograph)
    # Values halfway between two levels may be rounded either way.
    assert np.abs(plain.astype(int) - restored).max() <= 1
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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64, ">u2"])
@pytest.mark.parametrize(
    "shape", [(9, 14), (9, 14, 1), (9, 14, 2), (9, 14, 3), (9, 14, 4), (2, 9, 14, 3), (2, 9, 14, 4)]
)
def test_any_array_is_restored_as_its_eight_bits_are(make_network: Make, dtype: object, shape: tuple[int, ...]) -> None:
    restorer = Restorer(make_network(), mac_budget=None)
    eight = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    white = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    picture = (eight.astype(np.float64) / 255 * white).astype(dtype)
    restored = restorer.restore(picture)
    assert restored.shape == picture.shape
    assert restored.dtype == picture.dtype
    expected = restorer.restore(eight)
    scaled = restored.astype(np.float64) / white * 255
    assert np.abs(scaled - expected).max() <= (0.75 if np.dtype(dtype) == np.float16 else 0.51)
    if shape[-1] in (2, 4):
        assert np.array_equal(restored[..., -1], picture[..., -1])
    assert not np.array_equal(restored, picture)


def test_views_of_any_strides_are_restored(make_network: Make, photograph: np.ndarray) -> None:
    restorer = Restorer(make_network(), mac_budget=None)
    for view in (photograph[..., ::-1], photograph[::-1], photograph[:, ::-2], photograph.swapaxes(0, 1)):
        assert not view.flags.c_contiguous
        assert np.array_equal(restorer.restore(view), restorer.restore(np.ascontiguousarray(view)))


def test_grey_stays_grey(make_network: Make, photograph: np.ndarray) -> None:
    restorer = Restorer(make_network(), mac_budget=None)
    grey = photograph[..., 1]
    three = np.dstack([grey] * 3)
    restored = restorer.restore(three)
    assert np.array_equal(restored[..., 0], restored[..., 1])
    assert np.array_equal(restored[..., 0], restored[..., 2])
    assert np.array_equal(restorer.restore(grey), restored[..., 0])
    coloured = restorer.engine.restore_and_route(torch.from_numpy(three).permute(2, 0, 1)[None].float() / 255).restored
    assert coloured.std(dim=1).max() > 0.01  # without the rule for grey, this network adds colour
    projected = (coloured.mean(dim=1)[0].clamp(0, 1) * 255).round().numpy()
    assert np.abs(projected - restored[..., 0]).max() <= 1


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4), np.int16), r"got int16 \(4, 4\)"),
        (np.zeros((4, 4, 3), np.uint32), r"got uint32 \(4, 4, 3\)"),
        (np.zeros((4, 4, 3), bool), r"got bool \(4, 4, 3\)"),
        (np.zeros((3, 40, 40), np.uint8), r"got uint8 \(3, 40, 40\); channels come last"),
        (np.zeros((2, 3, 40, 40), np.uint8), r"got uint8 \(2, 3, 40, 40\); channels come last"),
        (np.zeros((0, 4, 3), np.uint8), r"got uint8 \(0, 4, 3\)"),
        (np.zeros(4, np.uint8), r"got uint8 \(4,\)"),
        (np.full((4, 4, 3), np.nan), "not finite"),
        (np.full((4, 4, 3), np.inf), "not finite"),
        (np.full((4, 4, 3), 255.0), "from 255 to 255; scale them"),
    ],
)
def test_other_arrays_are_refused(picture: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Restorer(MoCEIR()).restore(picture)


def test_strength_blends(make_network: Make, photograph: np.ndarray) -> None:
    network = make_network()
    picture = photograph.astype(np.float32) / 255
    whole = Restorer(network, mac_budget=None).restore(picture)
    assert np.array_equal(Restorer(network, mac_budget=None, strength=0).restore(picture), picture)
    half = Restorer(network, mac_budget=None, strength=0.5).restore(picture)
    inside = (whole > 0) & (whole < 1)  # exclude clamped values
    assert np.abs(half - (picture + whole) / 2)[inside].max() < 1e-5
    with pytest.raises(ValueError, match=r"strength of 1\.5: it must be from 0 to 1"):
        Restorer(network, strength=1.5)


def test_texture_puts_lines_back_but_not_noise() -> None:
    rng = np.random.default_rng(0)
    clean = np.full((64, 64), 0.5, np.float32)
    clean[32] = 0.9
    noisy = clean + rng.normal(0, 0.02, clean.shape).astype(np.float32)
    flat = np.full_like(clean, 0.5)  # the output of a network that loses the line
    back = put_back(flat, noisy, 1.0)
    assert np.abs(back[32] - 0.9).mean() < 0.15
    away = np.abs(np.arange(64) - 32) > 16
    assert np.abs(back[away] - 0.5).mean() < 0.1 * np.abs(noisy[away] - 0.5).mean()
    assert np.array_equal(put_back(flat, noisy, 0.0), flat)
    colours = put_back(np.dstack([flat] * 3), np.dstack([noisy] * 3), 1.0)
    assert np.allclose(colours[..., 1], back, atol=1e-5)


def test_unknown_device_is_explained() -> None:
    with pytest.raises(ValueError, match="device nonsense cannot be used"):
        Restorer(MoCEIR(), device="nonsense")


def test_failed_write_leaves_the_old_file_and_nothing_else(
    photograph: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.png"
    target.write_bytes(b"old")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(PictureError, match=r"out\.png: could not be written \(No space left on device\)"):
        write_picture(target, photograph)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("tile", [None, 72])
def test_a_network_without_routing_restores_files(tmp_path: Path, photograph: np.ndarray, tile: int | None) -> None:
    network = NAFNet(dim=4, num_blocks=(1, 1, 1), num_decoder_blocks=(1, 1)).eval()
    write_picture(tmp_path / "in.png", photograph)
    report = Restorer(network, tile=tile).restore_file(tmp_path / "in.png", tmp_path / "out.png")
    assert np.array_equal(read_picture(tmp_path / "out.png"), photograph)  # an untrained network changes nothing
    assert report.experts == []
    assert report.gmacs == pytest.approx(network.route_costs.base / 1e9)
