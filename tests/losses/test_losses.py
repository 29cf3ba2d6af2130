"""Compares each term with its formula in float64 or another implementation, also for edge cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from torch import Tensor, nn
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure, peak_signal_noise_ratio

from moceir.losses.frequency import frequency_loss
from moceir.losses.perceptual import VGG19, PerceptualLoss
from moceir.losses.pixel import error_in_db, l1_loss, l2_loss, psnr_loss
from moceir.losses.structure import WEIGHTS, ms_ssim, ms_ssim_loss

Loss = Callable[[Tensor, Tensor], Tensor]
OF_PICTURES: list[Loss] = [l1_loss, l2_loss, frequency_loss, ms_ssim_loss]


def pair(*shape: int, noise: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Make smooth pictures in [0, 1], float64, and noisy versions of them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(*shape[:2], 5, 5, generator=generator, dtype=torch.float64)
    clean = nn.functional.interpolate(coarse, shape[2:], mode="bilinear").clamp(0, 1)
    return (clean + noise * torch.randn(shape, generator=generator, dtype=torch.float64)).clamp(0, 1), clean


def test_pixel_losses_are_equations_13_and_14() -> None:
    restored, clean = pair(2, 3, 7, 9)
    difference = (restored - clean).numpy()
    assert float(l1_loss(restored, clean)) == pytest.approx(np.abs(difference).mean())
    assert float(l2_loss(restored, clean)) == pytest.approx((difference**2).mean())


def test_psnr_loss_is_the_negative_psnr_down_to_its_floor() -> None:
    restored, clean = pair(2, 3, 7, 9)
    each = [float(peak_signal_noise_ratio(*one, data_range=1.0)) for one in zip(restored, clean, strict=True)]
    assert error_in_db(restored, clean, floor=0).tolist() == pytest.approx([-psnr for psnr in each])
    assert float(psnr_loss(restored, clean, floor=0)) == pytest.approx(-np.mean(each))
    perfect = clean.clone().requires_grad_()
    loss = psnr_loss(perfect, clean, floor=2)
    loss.backward()
    assert float(loss) == pytest.approx(20 * math.log10(2 / 255))
    assert perfect.grad is not None
    assert perfect.grad.eq(0).all()


@pytest.mark.parametrize(("norm", "scale"), [("backward", 1.0), ("ortho", (7 * 10) ** -0.5), ("forward", 1 / 70)])
def test_frequency_loss_is_equation_15(norm: str, scale: float) -> None:
    restored, clean = pair(2, 3, 7, 10)
    spectra = [np.fft.fft2(x.numpy())[..., : 10 // 2 + 1] for x in (restored, clean)]
    expected = np.mean([np.abs((spectra[0] - spectra[1]).real), np.abs((spectra[0] - spectra[1]).imag)]) * scale
    assert float(frequency_loss(restored, clean, norm=norm)) == pytest.approx(expected)


@pytest.mark.parametrize("size", [(176, 176), (177, 200), (180, 333)])
@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_ms_ssim_equals_torchmetrics_where_that_is_defined(size: tuple[int, int], noise: float) -> None:
    restored, clean = pair(2, 3, *size, noise=noise)
    expected = multiscale_structural_similarity_index_measure(
        restored, clean, data_range=1.0, betas=WEIGHTS, normalize="relu"
    )
    assert float(ms_ssim(restored, clean).mean()) == pytest.approx(float(expected), abs=1e-6)


def slow_ms_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Compute MS-SSIM of one grey picture with SciPy's correlation and a window that shrinks."""
    product = 1.0
    for scale, weight in enumerate(WEIGHTS):
        size = min(11, *x.shape) if scale < 4 else min(11, 2 * min(x.shape) - 1)
        size -= 1 - size % 2
        at = np.arange(size) - size // 2
        window = np.exp(-0.5 * (at / 1.5) ** 2)
        window /= window.sum()

        half = size // 2 if scale < 4 else 0

        def mean(picture: np.ndarray, window: np.ndarray = window, half: int = half) -> np.ndarray:
            both = correlate1d(correlate1d(picture, window, axis=0, mode="mirror"), window, axis=1, mode="mirror")
            return both[half : picture.shape[0] - half, half : picture.shape[1] - half]

        mx, my = mean(x), mean(y)
        vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        value = (2 * vxy + 0.03**2) / (vx + vy + 0.03**2)
        if scale == 4:
            value = value * (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)
        product *= max(value.mean(), 0) ** weight
        if scale < 4:
            x, y = (
                i[: i.shape[0] // 2 * 2, : i.shape[1] // 2 * 2]
                .reshape(i.shape[0] // 2, 2, i.shape[1] // 2, 2)
                .mean(axis=(1, 3))
                for i in (x, y)
            )
    return product


@pytest.mark.parametrize("size", [(128, 128), (127, 64), (16, 40)])
def test_ms_ssim_of_smaller_pictures_shrinks_its_window(size: tuple[int, int]) -> None:
    restored, clean = pair(1, 1, *size)
    expected = slow_ms_ssim(restored[0, 0].numpy(), clean[0, 0].numpy())
    assert float(ms_ssim(restored, clean)) == pytest.approx(expected, abs=1e-9)


EDGES = {
    "identical": lambda clean: clean,
    "black": torch.zeros_like,
    "white": torch.ones_like,
    "inverted": lambda clean: 1 - clean,
    "noise": lambda clean: torch.rand_like(clean),
    "far out of range": lambda clean: 10 * clean - 5,
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("size", [(128, 128), (16, 16), (3, 2), (1, 1)])
@pytest.mark.parametrize("constant", [False, True], ids=["picture", "constant"])
@pytest.mark.parametrize("loss", OF_PICTURES, ids=lambda loss: loss.__name__)
def test_values_and_gradients_are_finite(edge: str, size: tuple[int, int], constant: bool, loss: Loss) -> None:
    clean = torch.full((2, 3, *size), 0.3) if constant else pair(2, 3, *size)[1].float()
    restored = EDGES[edge](clean).clone().requires_grad_()
    value = loss(restored, clean)
    value.backward()
    assert math.isfinite(float(value))
    assert restored.grad is not None
    assert restored.grad.isfinite().all()
    if edge == "identical":
        assert float(value) == pytest.approx(0, abs=1e-6)
    else:
        assert float(value) >= 0


def test_ms_ssim_pulls_towards_the_clean_picture() -> None:
    restored, clean = (x.float() for x in pair(1, 3, 128, 128, noise=0.05))
    restored.requires_grad_()
    before = ms_ssim_loss(restored, clean)
    before.backward()
    with torch.no_grad():
        after = ms_ssim_loss(restored - 20 * restored.grad, clean)
    assert float(after) < float(before) - 1e-3


@pytest.mark.parametrize("loss", [l2_loss, frequency_loss, ms_ssim_loss], ids=lambda loss: loss.__name__)
def test_gradients_are_the_derivatives(loss: Loss) -> None:
    restored, clean = pair(1, 2, 12, 13)
    assert torch.autograd.gradcheck(lambda x: loss(x, clean), restored.clone().requires_grad_(), fast_mode=True)


def vgg(layers: int = 6) -> dict[str, Tensor]:
    """Write random weights under torchvision's names, together with weights that are not needed."""
    generator = torch.Generator().manual_seed(1)
    state, width = {"classifier.0.weight": torch.zeros(3)}, 3
    for channels, index in list(zip((64, 64, 128, 128, 256, 256), (0, 2, 5, 7, 10, 12), strict=True))[:layers]:
        state[f"features.{index}.weight"] = torch.randn(channels, width, 3, 3, generator=generator) * 0.1
        state[f"features.{index}.bias"] = torch.randn(channels, generator=generator) * 0.1
        width = channels
    return state


def test_perceptual_loss_is_equation_10_with_torchvisions_layers(tmp_path: Path) -> None:
    """Compare with the layers of ``vgg19().features``; the design document names outputs 3, 8 and 13."""
    state = vgg()
    torch.save(state, tmp_path / "vgg19.pth")
    modules: list[nn.Module] = []
    for index, width, channels in (
        (0, 3, 64),
        (2, 64, 64),
        (5, 64, 128),
        (7, 128, 128),
        (10, 128, 256),
        (12, 256, 256),
    ):
        conv = nn.Conv2d(width, channels, 3, padding=1)
        conv.load_state_dict({name: state[f"features.{index}.{name}"] for name in ("weight", "bias")})
        modules += [conv, nn.ReLU()] + ([nn.MaxPool2d(2)] if index in (2, 7) else [])
    features = nn.Sequential(*modules).eval()
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    restored, clean = (x.float() for x in pair(2, 3, 21, 18))
    expected = 0.0
    x, y = (restored - mean) / std, (clean - mean) / std
    with torch.no_grad():
        for index, layer in enumerate(features):
            x, y = layer(x), layer(y)
            expected += {3: 0.1, 8: 0.6, 13: 0.3}.get(index, 0) * float((x - y).abs().mean())
    loss = PerceptualLoss(weights=str(tmp_path / "vgg19.pth"))
    assert float(loss(restored, clean)) == pytest.approx(expected, rel=1e-4)


def test_perceptual_loss_of_a_normalised_vgg(reference: Path) -> None:
    path = reference / "data" / "vgg" / "vgg19_normalised_conv3_1.pth"
    loss = PerceptualLoss(weights=str(path), layers=["relu1_2", "relu3_1"], layer_weights=[1.0, 2.0])
    _, clean = (x.float() for x in pair(1, 3, 64, 64))
    loss(clean, clean)
    activations = loss.network(clean)
    assert all(0.2 < float(x.mean()) < 2 for x in activations.values()), "filters were scaled to mean activations of 1"
    values = [float(loss(clean + sigma * torch.randn_like(clean), clean)) for sigma in (0.0, 0.02, 0.1)]
    assert values[0] == 0 < values[1] < values[2]
    with pytest.raises(ValueError, match=r"19\.weight should be .* nothing; choose layers that are in the file"):
        VGG19(weights=str(path), layers=["relu3_2"])


def test_perceptual_loss_trains_pictures_and_nothing_else() -> None:
    loss = PerceptualLoss(weights="random")
    restored, clean = (x.float() for x in pair(1, 3, 32, 32))
    restored.requires_grad_()
    loss(restored, clean).backward()
    assert restored.grad.abs().sum() > 0
    assert not list(loss.parameters())
    assert not loss.state_dict()
    assert loss.double().get_buffer("network.weight1").dtype == torch.float64, "it moves like a module"


def test_unavailable_weights_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(ValueError, match=r"could not be fetched .*fetch https://.*vgg19.* elsewhere.*perceptual=0"):
        VGG19(weights="imagenet", layers=["relu3_2"])
    with pytest.raises(ValueError, match=r"nothing\.pth: no such file; fetch"):
        VGG19(weights=str(tmp_path / "nothing.pth"), layers=["relu3_2"])
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(ValueError, match=r"text\.pth: not a readable VGG-19 state dict"):
        VGG19(weights=str(tmp_path / "text.pth"), layers=["relu3_2"])
    torch.save(vgg(layers=3), tmp_path / "short.pth")
    with pytest.raises(
        ValueError, match=r"short\.pth: features\.7\.weight should be \(128, 128, 3, 3\), but is nothing"
    ):
        VGG19(weights=str(tmp_path / "short.pth"), layers=["relu3_2"])
    with pytest.raises(ValueError, match=r"layers=\['relu9_9'\]"):
        PerceptualLoss(weights="random", layers=["relu9_9"], layer_weights=[1.0])
