"""Measures a network on pairs, and on clean pictures with synthetic degradations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from moceir.data.datasets import PairSet, WholePictures
from moceir.data.degradations import Degradation
from moceir.extras import require
from moceir.inference.postprocess import bilateral_filter, quantise
from moceir.networks.interface import Restoration
from moceir.networks.routes import RouteCosts


class Score(NamedTuple):
    """The scores of one picture with one degradation."""

    name: str
    """The dataset and the picture's path in it."""
    task: str
    degraded_psnr: float
    """dB, of the degraded picture as it is, against the clean one."""
    psnr: float
    """dB, of the restored picture, clamped to [0, 1]."""
    ssim: float
    """SSIM of the restored picture."""
    filtered_psnr: float
    """dB, of the restored picture in 8 bits, after the bilateral filter."""
    filtered_ssim: float
    """SSIM of the filtered picture."""
    gmacs: float
    """Cost of the route taken, scaled to 1280×720, post-filter included."""
    experts: list[int]
    """The experts taken, layer by layer."""


class Method(Protocol):
    """A method that restores pictures, such as :class:`moceir.engine.schedule.Engine`."""

    @property
    def route_costs(self) -> RouteCosts:
        """The cost of its routes."""
        ...

    def restore_and_route(self, x: Tensor) -> Restoration:
        """Restore a picture on the CPU, (1, 3, H, W), RGB in [0, 1]."""
        ...


@torch.inference_mode()
def evaluate(
    method: Method,
    sets: Sequence[PairSet],
    degradations: Mapping[str, Degradation],
    *,
    seed: int = 0,
) -> Iterator[Score]:
    """Restore each picture and compare; RGB, the whole picture, nothing cropped.

    Args:
        method: what restores the pictures.
        sets: pictures; pairs are restored as they are.
        degradations: task name -> degradation, of pictures that are clean.
        seed: decides the noise, with the picture's number in its dataset and nothing else.
    """
    require("measuring", "train", "torchmetrics")
    # The import costs 1 s and 90 MB, which other commands need not pay.
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    def psnr(picture: Tensor, clean: Tensor) -> float:
        return float(peak_signal_noise_ratio(picture, clean[None], data_range=1.0))

    def ssim(picture: Tensor, clean: Tensor) -> float:
        return float(cast(Tensor, structural_similarity_index_measure(picture, clean[None], data_range=1.0)))

    dataset = WholePictures(sets=sets, degradations=degradations, seed=seed)
    for degraded, clean, task, name in (dataset[index] for index in range(len(dataset))):
        restoration = method.restore_and_route(degraded[None])
        restored = restoration.restored.clamp(0, 1).cpu()
        filtered = torch.from_numpy(bilateral_filter(quantise(restored[0]))).permute(2, 0, 1)[None].float() / 255
        route = restoration.route
        yield Score(
            name=name,
            task=task,
            degraded_psnr=psnr(degraded[None], clean),
            psnr=psnr(restored, clean),
            ssim=ssim(restored, clean),
            filtered_psnr=psnr(filtered, clean),
            filtered_ssim=ssim(filtered, clean),
            gmacs=float(method.route_costs.of(route)[0]) / 1e9,
            experts=route.flatten().tolist(),
        )
