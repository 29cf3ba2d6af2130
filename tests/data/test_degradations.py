from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from omegaconf import OmegaConf
from scipy import ndimage
from torch import from_numpy

from moceir.config import config_dir
from moceir.data.blur import Defocus, MotionBlur, disc_kernel, motion_kernel
from moceir.data.camera import Camera
from moceir.data.degradations import (
    CameraNoise,
    Chain,
    Degradation,
    Digitised,
    GaussianNoise,
    GaussianNoiseRange,
    Jpeg,
    OneOf,
    PoissonNoise,
    Resized,
)
from moceir.data.samples import sample_photograph
from moceir.data.shake import Shake
from moceir.pictures.arrays import read_picture

EACH: dict[str, Degradation] = {
    "gaussian": GaussianNoise(sigmas=[15, 50]),
    "range": GaussianNoiseRange(sigma=[0, 55]),
    "poisson": PoissonNoise(scale=100),
    "camera": CameraNoise(),
    "developed": Camera(),
    "shake": Shake(moving=0),
    "shake, moving": Shake(moving=1, gamma=1),
    "motion": MotionBlur(),
    "defocus": Defocus(),
    "jpeg": Jpeg(quality=[10, 90]),
    "jpeg anywhere": Jpeg(quality=[10, 90], anywhere=True),
    "jpeg, any chroma": Jpeg(quality=[10, 90], chroma=["4:2:0", "4:4:4"]),
    "smaller": Resized(degradation=Camera(), scale=[0.5, 0.9]),
    "larger": Resized(degradation=Jpeg(quality=[10, 90]), scale=[1.1, 2]),
    "one of": OneOf(choices=[MotionBlur(), Jpeg(quality=[10, 90])]),
    "clean": Chain(steps=[]),
    "chain": Chain(steps=[MotionBlur(), CameraNoise(), Jpeg(quality=[10, 90])]),
    "poisson after noise": Chain(steps=[GaussianNoise(sigmas=[50]), PoissonNoise(scale=10)]),
    "camera after noise": Chain(steps=[GaussianNoise(sigmas=[50]), CameraNoise()]),
    "developed after noise": Chain(steps=[GaussianNoise(sigmas=[50]), Camera()]),
    "shake after noise": Chain(steps=[GaussianNoise(sigmas=[50]), Shake()]),
    "motion after noise": Chain(steps=[GaussianNoise(sigmas=[50]), MotionBlur()]),
    "digitised": Digitised(degradation=GaussianNoise(sigmas=[50]), clip=True, round=True),
}


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """Return a (3, 120, 150) crop of a photograph; no side is a multiple of a JPEG block."""
    picture = read_picture(sample_photograph("astronaut.png"))[60:180, 130:280]
    return np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32) / 255


def grey(level: float, side: int = 200) -> np.ndarray:
    return np.full((3, side, side), level, np.float32)


@pytest.mark.parametrize("name", EACH)
def test_contract(name: str, photograph: np.ndarray) -> None:
    degradation, before = EACH[name], photograph.copy()
    one, task = degradation(photograph, np.random.default_rng(1))
    two, same_task = degradation(photograph, np.random.default_rng(1))
    assert np.array_equal(photograph, before)
    assert not np.shares_memory(one, photograph)
    assert one.dtype == np.float32
    assert one.shape == photograph.shape
    assert one.flags.c_contiguous
    assert np.isfinite(one).all()
    assert np.array_equal(one, two)
    assert task == same_task
    others = [degradation(photograph, np.random.default_rng(seed))[0] for seed in range(2, 6)]
    assert name == "clean" or not all(np.array_equal(one, other) for other in others)
    assert isinstance(degradation.margin, int)


def test_noise_has_the_stated_strength() -> None:
    clean = grey(0.25)
    rng = np.random.default_rng(0)
    gaussian, task = GaussianNoise(sigmas=[25])(clean, rng)
    assert task == "gaussian"
    assert np.isclose((gaussian - clean).std(), 25 / 255, rtol=0.01)
    poisson, task = PoissonNoise(scale=100)(clean, rng)
    assert task == "poisson"
    assert poisson.dtype == gaussian.dtype == np.float32
    assert np.isclose((poisson - clean).std(), np.sqrt(0.25 / 100), rtol=0.01)
    assert np.isclose(poisson.mean(), 0.25, rtol=0.01)


def test_range_of_gaussian_noise_is_evenly_used() -> None:
    noise, rng, clean = GaussianNoiseRange(sigma=[10, 50]), np.random.default_rng(0), grey(0.5, 30)
    sigmas = [255 * (noise(clean, rng)[0] - clean).std() for _ in range(500)]
    assert 9 < min(sigmas) < 12
    assert 48 < max(sigmas) < 53
    assert np.allclose(np.percentile(sigmas, [25, 50, 75]), [20, 30, 40], atol=2.5)


def test_camera_noise_is_shot_and_read_noise_in_linear_light() -> None:
    shot, gain = 2e-3, np.array([2, 1, 1.5])
    noise = CameraNoise(shot=[shot, shot], red_gain=[2, 2], blue_gain=[1.5, 1.5])
    light = np.array([0, 0.05, 0.1, 0.2, 0.4, 0.7])
    slopes, offsets = [], []
    for seed in range(12):
        variances = []
        for level in light:
            clean = linear_rgb_to_rgb(from_numpy(grey(level))).numpy()
            noisy = rgb_to_linear_rgb(from_numpy(noise(clean, np.random.default_rng(seed))[0])).numpy()
            assert np.allclose(noisy.mean(axis=(1, 2)), level, atol=1e-3)
            variances.append(noisy.var(axis=(1, 2), dtype=float))
        slopes.append(np.polyfit(light, variances, 1)[0])
        offsets.append(variances[0])
    assert np.allclose(slopes, gain * shot, rtol=0.03)
    log_reads = np.log(offsets / gain**2)
    assert np.ptp(log_reads, axis=1).max() < 0.05, "one read noise for all channels"
    assert np.isclose(log_reads.mean(), 2.18 * np.log(shot) + 1.20, atol=0.26)
    assert 0.12 < log_reads[:, 0].std() < 0.45


def test_shot_noise_is_log_uniform() -> None:
    noise = CameraNoise(shot=[1e-4, 1e-2], red_gain=[1, 1], blue_gain=[1, 1])
    clean, rng = linear_rgb_to_rgb(from_numpy(grey(0.5, 40))), np.random.default_rng(0)
    noisy = [rgb_to_linear_rgb(from_numpy(noise(clean.numpy(), rng)[0])).numpy() for _ in range(300)]
    assert np.allclose(np.log10([2 * picture.var() for picture in noisy]).mean(), -3, atol=0.12)


@pytest.mark.parametrize("length", [0.5, 3, 16, 31])
@pytest.mark.parametrize("shake", [0, 1, 4])
def test_motion_kernels(length: float, shake: float) -> None:
    for seed in range(10):
        kernel = motion_kernel(length=length, shake=shake, rng=np.random.default_rng(seed))
        assert kernel.min() >= 0
        assert np.isclose(kernel.sum(), 1, atol=1e-5)
        middle = len(kernel) // 2
        assert len(kernel) == 2 * middle + 1
        assert np.allclose(ndimage.center_of_mass(kernel), middle, atol=1e-3)
        across = np.arange(len(kernel)) - middle
        furthest = np.hypot(across[:, None], across)[kernel > 0].max()
        assert length / 2 - 0.01 <= furthest < length / 2 + 2**0.5
        assert ndimage.label(kernel > 0, np.ones((3, 3)))[1] == 1, "a trajectory has no gaps"


def test_shake_bends_the_trajectory() -> None:
    def straightness(shake: float) -> float:
        """Return the mean fraction of the variance along the kernel's main direction."""
        shares = []
        for seed in range(30):
            kernel = motion_kernel(length=31, shake=shake, rng=np.random.default_rng(seed))
            points = np.argwhere(kernel >= 0)
            variances = np.linalg.eigvalsh(np.cov(points.T, aweights=kernel.ravel()))
            shares.append(variances[1] / variances.sum())
        return float(np.mean(shares))

    assert straightness(0) > 0.99 > straightness(1) > straightness(4)


@pytest.mark.parametrize("radius", [0, 0.4, 1, 2.8, 6])
def test_disc_kernels(radius: float) -> None:
    kernel = disc_kernel(radius)
    assert kernel.min() >= 0
    assert np.isclose(kernel.sum(), 1)
    assert np.array_equal(kernel, kernel.T)
    assert np.array_equal(kernel, kernel[::-1])
    if radius > 1:
        assert np.isclose(1 / kernel.max(), np.pi * radius**2, rtol=0.05), "the disc's area"


@pytest.mark.parametrize("gamma", [1, 2.2])
def test_blur_leaves_what_is_constant(gamma: float) -> None:
    for blur in (MotionBlur(gamma=gamma), Defocus(gamma=gamma)):
        for level in (0.0, 0.3, 1.0):
            # Near black, a rounding error of 1e-7 in light becomes that number to the power of 1 / gamma.
            tolerance = 1e-7 ** (1 / gamma) if level == 0 else 1e-5
            assert np.allclose(blur(grey(level, 20), np.random.default_rng(0))[0], level, atol=tolerance)


@pytest.mark.parametrize("gamma", [1, 2.2])
def test_motion_blur_is_a_convolution_of_light(gamma: float, photograph: np.ndarray) -> None:
    blur = MotionBlur(length=[20, 30], gamma=gamma)
    point = np.zeros((3, 61, 61), np.float32)
    point[:, 30, 30] = 1
    kernel = blur(point, np.random.default_rng(7))[0][0].astype(float) ** gamma
    blurred, task = blur(photograph, np.random.default_rng(7))
    light = photograph.astype(float) ** gamma
    expected = np.stack([ndimage.convolve(plane, kernel, mode="mirror") for plane in light]) ** (1 / gamma)
    assert task == "motion"
    assert np.allclose(blurred, expected, atol=1e-5 if gamma == 1 else 2e-3)
    assert abs(blurred - photograph).mean() > 0.02

    rng = np.random.default_rng(7)
    drawn = motion_kernel(length=rng.uniform(20, 30), shake=rng.uniform(0, 3), rng=rng)
    radius = len(drawn) // 2
    assert np.allclose(kernel[30 - radius : 31 + radius, 30 - radius : 31 + radius], drawn, atol=1e-6), "not mirrored"


@pytest.mark.parametrize(
    "blur",
    [
        MotionBlur(length=[31, 31], gamma=1),
        MotionBlur(length=[16, 16], shake=[0, 0]),
        Defocus(radius=[6, 6]),
        OneOf(choices=[Defocus(radius=[2.5, 2.5]), MotionBlur(length=[20, 20])]),
        Chain(steps=[MotionBlur(length=[10, 10]), Defocus(radius=[3, 3])]),
        Shake(length=[31, 31], turn=[0, 0], zoom=[0, 0], moving=0),
    ],
)
def test_margin_is_enough_and_half_of_it_is_not(blur: Degradation, photograph: np.ndarray) -> None:
    def crop_with(margin: int, seed: int) -> np.ndarray:
        window = photograph[:, 50 - margin : 70 + margin, 60 - margin : 80 + margin]
        return blur(window, np.random.default_rng(seed))[0][:, margin : margin + 20, margin : margin + 20]

    errors, errors_with_half = [], []
    for seed in range(8):
        whole = blur(photograph, np.random.default_rng(seed))[0][:, 50:70, 60:80]
        errors.append(abs(crop_with(blur.margin, seed) - whole).max())
        errors_with_half.append(abs(crop_with(blur.margin // 2, seed) - whole).max())
    assert max(errors) < 1e-4
    assert max(errors_with_half) > 1e-3


def test_margins() -> None:
    blur = MotionBlur(length=[3, 31])
    assert GaussianNoise(sigmas=[1]).margin == PoissonNoise(scale=1).margin == CameraNoise().margin == 0
    assert Digitised(degradation=blur, clip=False, round=False).margin == blur.margin == 16
    assert OneOf(choices=[Defocus(radius=[1, 6]), blur, CameraNoise()]).margin == 16
    assert Chain(steps=[Defocus(radius=[1, 6]), blur, CameraNoise()]).margin == 22
    assert Resized(degradation=blur, scale=[0.5, 2]).margin == 36


@pytest.mark.parametrize("quality", [5, 40, 95])
def test_jpeg_equals_a_file_with_that_quality(quality: int, photograph: np.ndarray) -> None:
    clean = photograph * 1.2 - 0.1  # clipped
    pixels = np.round(np.clip(clean, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    _, file = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    expected = cv2.cvtColor(cv2.imdecode(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    degraded, task = Jpeg(quality=[quality, quality])(clean, np.random.default_rng(0))
    assert task == "jpeg"
    assert np.array_equal(degraded, expected.transpose(2, 0, 1).astype(np.float32) / 255)


def test_jpeg_quality_and_grid_are_drawn(photograph: np.ndarray) -> None:
    jpeg, rng = Jpeg(quality=[10, 12]), np.random.default_rng(0)
    drawn = {jpeg(photograph, rng)[0].tobytes() for _ in range(40)}
    fixed = {Jpeg(quality=[q, q])(photograph, rng)[0].tobytes() for q in (10, 11, 12)}
    assert drawn == fixed
    anywhere = Jpeg(quality=[10, 10], anywhere=True)
    results = [anywhere(photograph, rng)[0] for _ in range(20)]
    assert len({result.tobytes() for result in results}) > 10
    errors = [((result - photograph) ** 2).mean() for result in results]
    assert max(errors) < 1.5 * min(errors), "the grid moves, the picture does not"


def test_jpeg_uses_the_given_chroma_sampling(photograph: np.ndarray) -> None:
    def error_of_colour(*chroma: str) -> float:
        degraded, _ = Jpeg(quality=[95, 95], chroma=chroma)(photograph, np.random.default_rng(0))
        return float(np.square((degraded - photograph) - (degraded - photograph).mean(axis=0)).mean())

    assert 1.2 * error_of_colour("4:4:4") < error_of_colour("4:2:2") < error_of_colour("4:2:0")
    jpeg, rng = Jpeg(quality=[50, 50], chroma=["4:2:0", "4:4:4"]), np.random.default_rng(0)
    drawn = [jpeg(photograph, rng)[0].tobytes() for _ in range(40)]
    assert len(set(drawn)) == 2
    assert 8 < drawn.count(drawn[0]) < 32


def test_resized_leaves_the_picture_and_resizes_the_change(photograph: np.ndarray) -> None:
    nothing = Resized(degradation=Chain(steps=[]), scale=[0.5, 2])
    degraded, task = nothing(photograph, np.random.default_rng(0))
    assert task == "clean"
    assert np.array_equal(degraded, photograph)

    def correlation(scale: float) -> float:
        resized = Resized(degradation=GaussianNoise(sigmas=[25]), scale=[scale, scale])
        noise = resized(photograph, np.random.default_rng(0))[0] - photograph
        return float((noise[..., :-1] * noise[..., 1:]).mean() / noise.var())

    assert abs(correlation(1)) < 0.02
    assert correlation(0.5) > 0.6
    assert 0 < correlation(1.5) < 0.3


@pytest.mark.parametrize("scale", [0.7, 1.6])
def test_resized_moves_nothing(scale: float) -> None:
    """A spot that the inner degradation adds appears at the same position in the result."""

    class Spot:
        margin = 0

        def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
            sides = np.array(clean.shape[1:])
            self.place = (sides // 3 + 0.5) / sides
            y, x = np.ogrid[: sides[0], : sides[1]]
            return clean + np.exp(-((y - sides[0] // 3) ** 2 + (x - sides[1] // 3) ** 2) / 50, dtype=np.float32), "spot"

    spot = Spot()
    change, _ = Resized(degradation=spot, scale=[scale, scale])(grey(0, 100), np.random.default_rng(0))
    assert np.allclose(ndimage.center_of_mass(change[0]), 100 * spot.place - 0.5, atol=0.02)


def test_one_of_draws_by_weight() -> None:
    choice = OneOf(choices=[GaussianNoise(sigmas=[1]), PoissonNoise(scale=10)], weights=[3, 1])
    rng = np.random.default_rng(0)
    tasks = [choice(np.zeros((3, 1, 1), np.float32), rng)[1] for _ in range(400)]
    assert 250 < tasks.count("gaussian") < 350


def test_chain_applies_its_steps_in_order(photograph: np.ndarray) -> None:
    steps = [MotionBlur(), CameraNoise(), Jpeg(quality=[30, 50])]
    degraded, task = Chain(steps=steps)(photograph, np.random.default_rng(0))
    assert task == "motion+camera+jpeg"
    rng, expected = np.random.default_rng(0), photograph
    for step in steps:
        rng.random()  # the chain draws whether to apply the step
        expected, _ = step(expected, rng)
    assert np.array_equal(degraded, expected)


def test_chain_applies_steps_by_probability() -> None:
    chain = Chain(
        steps=[GaussianNoise(sigmas=[1]), Chain(steps=[]), PoissonNoise(scale=10), CameraNoise()],
        probabilities=[0.75, 0.5, 0.5, 0],
    )
    rng, clean = np.random.default_rng(0), grey(0.5, 2)
    tasks = [chain(clean, rng)[1] for _ in range(800)]
    counts = {task: tasks.count(task) for task in set(tasks)}
    expected = {"gaussian": 300, "gaussian+poisson": 300, "poisson": 100, "clean": 100}
    assert counts.keys() == expected.keys()
    for task, count in expected.items():
        assert abs(counts[task] - count) < 5 * np.sqrt(count), task


def test_an_empty_chain_leaves_pictures_clean(photograph: np.ndarray) -> None:
    degraded, task = Chain(steps=[])(photograph, np.random.default_rng(0))
    assert task == "clean"
    assert np.array_equal(degraded, photograph)


def test_digitised_clips_and_rounds_by_its_arguments(photograph: np.ndarray) -> None:
    noise = GaussianNoise(sigmas=[50])
    raw, _ = noise(photograph, np.random.default_rng(0))
    assert raw.min() < 0
    assert raw.max() > 1
    for clip, rounded, expected in [
        (False, False, raw),
        (True, False, np.clip(raw, 0, 1)),
        (True, True, np.round(np.clip(raw, 0, 1) * 255) / np.float32(255)),
    ]:
        digitised = Digitised(degradation=noise, clip=clip, round=rounded)
        degraded, task = digitised(photograph, np.random.default_rng(0))
        assert task == "gaussian"
        assert np.array_equal(degraded, expected)


@pytest.mark.parametrize(
    ("overrides", "digital"), [([], False), (["data.degradation.round=true", "data.degradation.clip=true"], True)]
)
def test_noise_is_digitised_from_the_command_line(overrides: list[str], digital: bool) -> None:
    with initialize_config_dir(config_dir(), version_base="1.3"):
        degradation = instantiate(compose("train", overrides=overrides).data.degradation)
    rng, clean = np.random.default_rng(0), grey(0.9, 50)
    values = np.stack([degradation(clean, rng)[0] for _ in range(10)])
    assert (values.max() <= 1) == digital
    assert np.allclose(values * 255, np.round(values * 255), atol=1e-3) == digital


def test_each_validation_task_has_one_definition_and_one_name() -> None:
    folder = Path(config_dir())
    named = OmegaConf.load(folder / "tasks" / "default.yaml")
    files = sorted((folder / "degradation").glob("*.yaml"))
    assert files
    for file in files:
        config = OmegaConf.load(file)
        if "defaults" in config and "validation_degradations" not in config:
            continue  # it takes those of the choice that it begins with
        tasks = OmegaConf.to_container(config.validation_degradations, resolve=False)
        assert tasks == {name: f"${{tasks.{name}}}" for name in tasks if name in named}, file.name


def test_the_extended_mixture(photograph: np.ndarray) -> None:
    with initialize_config_dir(config_dir(), version_base="1.3"):
        data = compose("train", overrides=["degradation=extended"]).data
    degradation, rng = instantiate(data.degradation), np.random.default_rng(0)
    assert degradation.margin == 16
    window = photograph[:, :48, :48].copy()
    tasks = [degradation(window, rng)[1] for _ in range(400)]
    assert {"gaussian", "poisson", "camera", "motion", "defocus", "jpeg", "motion+camera", "motion+jpeg"} < set(tasks)
    assert 0 < tasks.count("clean") < 30
    for name, fixed in instantiate(data.validation_degradations).items():
        degraded, _ = fixed(photograph, np.random.default_rng(0))
        assert 14 < -10 * np.log10(((degraded - photograph) ** 2).mean()) < 35, name


def test_the_real_mixture(photograph: np.ndarray) -> None:
    with initialize_config_dir(config_dir(), version_base="1.3"):
        data = compose("train", overrides=["degradation=real"]).data
    degradation, rng = instantiate(data.degradation), np.random.default_rng(0)
    assert degradation.margin <= 24
    window = photograph[:, :64, :64].copy()
    results = [degradation(window, rng) for _ in range(400)]
    tasks = [task for _, task in results]
    assert {"gaussian", "poisson", "camera", "camera+jpeg", "motion", "defocus", "jpeg", "jpeg+jpeg"} < set(tasks)
    assert 0 < tasks.count("clean") < 30
    for degraded, task in results:
        if task not in ("gaussian", "poisson"):
            assert np.allclose(degraded * 255, np.round(degraded * 255), atol=1e-3), task
    for name, fixed in instantiate(data.validation_degradations).items():
        degraded, _ = fixed(photograph, np.random.default_rng(0))
        assert 14 < -10 * np.log10(((degraded - photograph) ** 2).mean()) < 43, name


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GaussianNoise(sigmas=[]), "sigmas=.*at least one"),
        (lambda: GaussianNoise(sigmas=[-1]), "none may be negative"),
        (lambda: GaussianNoiseRange(sigma=[5, 3]), r"sigma=\[5, 3\]: give \[low, high\]"),
        (lambda: GaussianNoiseRange(sigma=[5]), "low, high"),
        (lambda: GaussianNoiseRange(sigma=[float("nan"), 1]), "low, high"),
        (lambda: PoissonNoise(scale=0), "above 0"),
        (lambda: CameraNoise(shot=[0, 0.1]), "shot="),
        (lambda: CameraNoise(red_gain=[-1, 2]), "red_gain="),
        (lambda: CameraNoise(blue_gain=[2, 1]), "blue_gain="),
        (lambda: MotionBlur(length=[-1, 3]), "length="),
        (lambda: MotionBlur(shake=[3, 1]), "shake="),
        (lambda: MotionBlur(gamma=0), "gamma=0"),
        (lambda: Defocus(radius=[0, float("inf")]), "radius="),
        (lambda: Defocus(gamma=-1), "gamma=-1"),
        (lambda: Jpeg(quality=[0, 50]), "quality="),
        (lambda: Jpeg(quality=[50, 101]), "quality="),
        (lambda: Jpeg(quality=[50, 60], chroma=["4:1:1"]), "give a list of 4:2:0, 4:2:2, 4:4:4"),
        (lambda: Jpeg(quality=[50, 60], chroma=[]), "chroma="),
        (lambda: Resized(degradation=CameraNoise(), scale=[0, 1]), "scale="),
        (lambda: Camera(shot=[0, 1]), "shot="),
        (lambda: Camera(demosaicking=["nearest"]), "give a list of bilinear, edges, gradients"),
        (lambda: Camera(demosaicking=[]), "demosaicking="),
        (lambda: Camera(read=[0, 1]), "read="),
        (lambda: Camera(plain_tone=2), "plain_tone=2: give a probability"),
        (lambda: Camera(chroma_blur=[0, 1]), "chroma_blur="),
        (lambda: Shake(length=[5, 3]), "length="),
        (lambda: Shake(moving=-1), "moving=-1"),
        (lambda: Shake(gamma=0), "gamma=0"),
        (lambda: OneOf(choices=[]), "for 0 choices"),
        (lambda: OneOf(choices=[CameraNoise()], weights=[1, 1]), "give each choice one weight"),
        (lambda: OneOf(choices=[CameraNoise(), CameraNoise()], weights=[2, -1]), "none may be negative"),
        (lambda: OneOf(choices=[CameraNoise(), CameraNoise()], weights=[0, 0]), "not all may be zero"),
        (lambda: Chain(steps=[CameraNoise()], probabilities=[]), "for 1 steps"),
        (lambda: Chain(steps=[CameraNoise()], probabilities=[1.5]), r"in \[0, 1\]"),
        (lambda: Digitised(degradation=CameraNoise(), clip=False, round=True), "set clip=True"),
    ],
)
def test_bad_arguments_are_refused(build, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        build()
