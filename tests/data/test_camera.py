from __future__ import annotations

import runpy
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from moceir.data.camera import Camera, Demosaicking, Development
from moceir.data.degradations import CameraNoise
from moceir.data.samples import sample_photograph
from moceir.pictures.arrays import read_picture

MATRIX = np.array([[0.6, 0.3, 0.1], [0.15, 0.75, 0.1], [0.0, 0.2, 0.8]])  # white stays white
EVERY = [
    Development(matrix=MATRIX, gains=(2.6, 1.2, 2.0), contrast=contrast, red=(top, left), demosaicking=demosaicking)
    for contrast in (0, 0.5, 1)
    for top in (0, 1)
    for left in (0, 1)
    for demosaicking in get_args(Demosaicking)
]


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """Return display values (H, W, 3) with odd sides."""
    return read_picture(sample_photograph("astronaut.png"))[60:211, 130:281].astype(np.float32) / 255


@pytest.mark.parametrize("development", EVERY)
def test_without_noise_a_smooth_picture_comes_back(development: Development) -> None:
    y, x = np.mgrid[:120, :121].astype(np.float32) / 120
    smooth = 0.1 + 0.8 * np.stack([x, y, 0.5 + 0.5 * np.sin(2 * (x + y))], axis=2)
    developed = development.develop(development.expose(smooth))
    assert 255 * np.abs(developed - smooth)[3:-3, 3:-3].max() < 1
    for colour in np.array([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]], np.float32):
        flat = np.broadcast_to(colour, (20, 20, 3))
        assert 255 * np.abs(development.develop(development.expose(flat)) - flat).max() < 1


@pytest.mark.parametrize("development", EVERY)
def test_development_moves_nothing(development: Development, photograph: np.ndarray) -> None:
    every_step = development._replace(chroma_blur=1, luma_smoothing=0.02, sharpening=1)
    developed = every_step.develop(every_step.expose(photograph))
    down, across = np.gradient(photograph, axis=(0, 1))
    change = (developed - photograph).ravel()
    # A shift by dx changes a value by −dx times its slope.
    shift, *_ = np.linalg.lstsq(np.stack([down.ravel(), across.ravel()], axis=1), change, rcond=None)
    assert np.abs(shift).max() < 0.06, "photosites are a pixel apart"


def test_demosaicking_by_gradients_keeps_more_detail(photograph: np.ndarray) -> None:
    grey = np.repeat(photograph.mean(axis=2, keepdims=True), 3, axis=2)

    def error(demosaicking: Demosaicking) -> float:
        development = Development(matrix=np.eye(3), gains=(1, 1, 1), demosaicking=demosaicking)
        return float(np.square(development.develop(development.expose(grey)) - grey).mean())

    assert 10 * np.log10(error("bilinear") / error("gradients")) > 3


def test_the_mosaic_has_one_colour_per_photosite() -> None:
    development = Development(matrix=np.eye(3), gains=(2, 1, 4), red=(0, 1))
    mosaic = development.expose(np.ones((4, 6, 3), np.float32))
    assert np.allclose(mosaic, np.tile([[1, 1 / 2], [1 / 4, 1]], (2, 3)), atol=1e-4)


def test_without_noise_nothing_changes(photograph: np.ndarray) -> None:
    """Even fine detail, which demosaicking would lose, stays. In a few places, rounding selects another edge."""
    clean = np.ascontiguousarray(photograph.transpose(2, 0, 1))
    camera = Camera(shot=[1e-9, 1e-9], sharpening_probability=1, luma_smoothing_probability=1)
    for seed in range(10):
        change = 255 * np.abs(camera(clean, np.random.default_rng(seed))[0] - clean)
        assert change.mean() < 0.02
        assert np.mean(change < 1) > 0.998


def test_saturated_pixels_have_no_noise() -> None:
    def noise(colour: tuple[float, float, float]) -> float:
        flat = np.tile(np.float32(colour), (64, 64, 1)).transpose(2, 0, 1)
        return float(np.abs(Camera(shot=[2e-3, 2e-3])(flat, np.random.default_rng(0))[0] - flat).max())

    assert noise((1, 1, 1)) < 1 / 255
    assert noise((0.9, 0.9, 0.9)) > 4 / 255
    assert noise((1, 0, 0)) > 4 / 255


def test_noise_is_stronger_where_there_is_more_of_it_on_the_sensor() -> None:
    flat = np.full((3, 96, 96), 0.5, np.float32)
    deviations = [
        np.mean([Camera(shot=[shot, shot])(flat, np.random.default_rng(seed))[0].std() for seed in range(10)])
        for shot in (1e-4, 4e-4, 16e-4)
    ]
    assert np.allclose(np.diff(np.log(deviations)), np.log(2), atol=0.25), "shot noise grows with the root"


def test_each_step_has_its_effect() -> None:
    """On grey, colour noise, luma noise and grain size are separable."""
    flat = np.full((3, 128, 128), 0.4, np.float32)
    off = {"chroma_blur_probability": 0.0, "luma_smoothing_probability": 0.0, "sharpening_probability": 0.0}

    def noise(**settings: object) -> tuple[float, float]:
        """Return the standard deviations of luma and of red minus luma."""
        camera = Camera(shot=[1e-3, 1e-3], **(off | settings))  # type: ignore[arg-type]
        both = []
        for seed in range(6):
            change = camera(flat, np.random.default_rng(seed))[0] - flat
            luma = np.tensordot([0.299, 0.587, 0.114], change, 1)
            both.append((luma.std(), (change[0] - luma).std()))
        return tuple(np.mean(both, axis=0))

    luma, colour = noise()
    assert noise(chroma_blur_probability=1.0, chroma_blur=(4, 4))[1] < 0.4 * colour
    assert np.isclose(noise(chroma_blur_probability=1.0, chroma_blur=(4, 4))[0], luma, rtol=0.1)
    assert noise(luma_smoothing_probability=1.0, luma_smoothing=(4, 4))[0] < 0.7 * luma
    assert noise(sharpening_probability=1.0, sharpening=(1, 1))[0] > 1.3 * luma


def test_noise_is_as_coarse_and_as_coloured_as_real_cameras(reference: Path) -> None:
    """Compare noise that the mixture adds to PolyU's mean pictures with the noise of PolyU's cameras."""
    bench = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "degradations.py"))
    pairs = list(bench["polyu_pairs"](reference, every=3))
    real, modelled = bench["compare_noise"](pairs, bench["photograph_noise"](), rounds=2)
    _, white = bench["compare_noise"](pairs, CameraNoise(), rounds=1)
    assert len(real) > 20
    for name in real[0]._fields[1:]:
        of_real, of_model, of_white = ([getattr(one, name) for one in every] for every in (real, modelled, white))
        assert min(of_real) < np.median(of_model) < max(of_real), name
        low, high = np.percentile(of_model, [5, 95])
        assert np.mean([low < value < high for value in of_real]) > 0.6, f"{name}: real pictures are outside"
        assert np.median(of_white) < min(of_real), f"{name}: noise that is not developed would do"
