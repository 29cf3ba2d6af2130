from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from moceir.data.blur import convolve
from moceir.data.samples import sample_photograph
from moceir.data.shake import Shake, moving_part
from moceir.pictures.arrays import read_picture

STILL = {"turn": (0, 0), "zoom": (0, 0), "moving": 0.0, "glare": (0, 0)}


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    picture = read_picture(sample_photograph("astronaut.png"))[60:180, 130:280]
    return np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32) / 255


def trace(shake: Shake, seed: int, at: tuple[int, int] = (30, 30)) -> np.ndarray:
    """Return the point spread function."""
    point = np.zeros((3, 61, 61), np.float32)
    point[:, at[0], at[1]] = 1
    return shake(point, np.random.default_rng(seed))[0][0].astype(float) ** shake.gamma


@pytest.mark.parametrize("gamma", [1, 2.2])
def test_a_shift_is_a_convolution_of_light(gamma: float, photograph: np.ndarray) -> None:
    shake = Shake(length=(10, 20), gamma=gamma, **STILL)
    for seed in range(5):
        kernel = trace(shake, seed)
        assert np.isclose(kernel.sum(), 1, atol=1e-3)
        blurred, task = shake(photograph, np.random.default_rng(seed))
        expected = convolve(photograph, kernel.astype(np.float32), gamma=gamma)
        assert task == "motion"
        assert np.abs(blurred - expected).max() < (1e-5 if gamma == 1 else 5e-3)
        assert np.abs(blurred - photograph).mean() > 0.02


def test_the_clean_picture_is_the_middle_of_the_exposure() -> None:
    """A uniform straight movement extends equally far to both sides; a bent one passes through the middle."""
    even = Shake(length=(20, 20), shake=(0, 0), gamma=1, **STILL)
    bent = Shake(length=(20, 20), shake=(3, 3), gamma=1, **STILL)
    for seed in range(10):
        kernel = trace(even, seed)
        assert np.allclose(ndimage.center_of_mass(kernel), 30, atol=0.02)
        assert np.allclose(kernel, kernel[::-1, ::-1], atol=0.01)
        places = np.argwhere(kernel > 1e-3) - 30
        assert 9.5 < np.hypot(*places.T).max() < 11.5
        kernel = trace(bent, seed)
        assert kernel[30, 30] > 0.02
        assert np.hypot(*(np.argwhere(kernel > 1e-3) - 30).T).max() < 11.5
        assert ndimage.label(kernel > 1e-3, np.ones((3, 3)))[1] == 1, "no gaps"


def test_turn_and_zoom_move_what_is_far_from_the_middle() -> None:
    for still in ({"turn": (10, 10)}, {"zoom": (0.2, 0.2)}):
        shake = Shake(length=(0, 0), gamma=1, **(STILL | still))
        assert trace(shake, 0)[30, 30] > 0.99
        places = np.argwhere(trace(shake, 0, at=(30, 55)) > 0.01)
        down, across = np.ptp(places, axis=0)
        assert (down >= 4 > across) if "turn" in still else (across >= 4 > down)


def test_constant_pictures_do_not_change() -> None:
    for gamma in (1, 2.2):
        for level in (0.0, 0.3, 1.0):
            flat = np.full((3, 70, 80), level, np.float32)
            blurred, _ = Shake(moving=1, gamma=gamma)(flat, np.random.default_rng(0))
            assert np.allclose(blurred, level, atol=1e-4)


def test_light_adds_up_brighter_than_display_values(photograph: np.ndarray) -> None:
    light, display = (
        Shake(length=(20, 20), gamma=gamma, **STILL)(photograph, np.random.default_rng(0))[0] for gamma in (2.2, 1)
    )
    assert light.mean() > display.mean() + 0.003
    assert np.isclose(display.mean(), photograph.mean(), atol=0.01)


def test_glare_is_of_white_alone() -> None:
    def brightest(colour: tuple[float, float, float], glare: float) -> float:
        lamp = np.full((3, 61, 61), 0.05, np.float32)
        lamp[:, 28:33, 28:33] = np.reshape(colour, (3, 1, 1))
        blurred, _ = Shake(length=(30, 30), shake=(0, 0), gamma=1, **(STILL | {"glare": (glare, glare)}))(
            lamp, np.random.default_rng(0)
        )
        assert blurred.max() <= 1
        return float(blurred[:, 30, 30].max())

    assert brightest((1, 1, 1), 2) > 2 * brightest((1, 1, 1), 0)
    assert brightest((0.9, 0.9, 0.9), 2) == brightest((0.9, 0.9, 0.9), 0)
    assert brightest((1, 0, 0), 2) == brightest((1, 0, 0), 0)


def test_parts_move_on_their_own(photograph: np.ndarray) -> None:
    """Outside the moving region, the picture is the same as without independent movement."""
    shares = []
    for seed in range(20):
        together, apart = (
            Shake(length=(12, 12), gamma=1, **(STILL | {"moving": moving}))(photograph, np.random.default_rng(seed))[0]
            for moving in (0.0, 1.0)
        )
        shares.append(np.mean(np.abs(together - apart).max(axis=0) > 0.03))
    assert 0.1 < np.mean(shares) < 0.6
    assert np.std(shares) > 0.05


def test_moving_parts_have_clear_outlines() -> None:
    masks = [moving_part((150, 120), np.random.default_rng(seed)) for seed in range(20)]
    assert masks[0].shape == (120, 150)
    assert masks[0].dtype == np.float32
    assert 0.2 < np.mean(masks) < 0.6
    assert np.mean([(mask > 0.01) & (mask < 0.99) for mask in masks]) < 0.15
