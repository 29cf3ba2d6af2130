"""`make bench-peers` compares the shipped network with the published blind colour DnCNN on the same noisy pictures.

CDnCNN-B (Zhang et al., Beyond a Gaussian Denoiser, TIP 2017) predicts the noise with twenty 3×3 convolutions and ReLUs
in between. Its file contains ``conv{0…19}.weight`` and ``.bias`` in torch's order, converted from the authors' model
GD_Color_Blind.mat.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from programs import live_peak
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchmetrics.functional.image import peak_signal_noise_ratio

from moceir import load_pretrained
from moceir.cli.options import load_sources
from moceir.data.datasets import PairSet, WholePictures
from moceir.data.degradations import Degradation, GaussianNoise
from moceir.data.mixture import find_sets
from moceir.engine.allocator import keep_freed_memory
from moceir.engine.schedule import Engine


class DnCNN:
    """Restores pictures, (B, 3, H, W) in [0, 1]."""

    def __init__(self, path: Path) -> None:
        weights = safetensors.torch.load_file(path)
        self.layers = [
            (weights[f"conv{i}.weight"].contiguous(memory_format=torch.channels_last), weights[f"conv{i}.bias"])
            for i in range(20)
        ]

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        noise = x.contiguous(memory_format=torch.channels_last)
        for index, (weight, bias) in enumerate(self.layers):
            noise = F.conv2d(noise.relu_() if index > 1 else noise.relu() if index else noise, weight, bias, padding=1)
        return x - noise


def cost(run: Callable[[], object]) -> tuple[float, int]:
    """Return the seconds of the fastest of five runs, and the peak increase of allocated bytes in another."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times), live_peak(run)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="a folder of clean pictures")
    parser.add_argument("--cdncnn", type=Path, required=True, help="CDnCNN-B's weights")
    options = parser.parse_args()
    keep_freed_memory()
    engine, dncnn = Engine(load_pretrained()), DnCNN(options.cdncnn)
    engine.mac_budget = 30.0
    peers: dict[str, Callable[[Tensor], Tensor]] = {
        "moceir, ≤ 30 G": lambda x: engine.restore_and_route(x).restored,
        "CDnCNN-B": dncnn,
    }

    sources = load_sources("photographs", [])
    found = find_sets(options.pictures, sources, allow_missing=False)["photographs"]
    levels = (15, 25, 50)
    noises: dict[str, Degradation] = {str(level): GaussianNoise(sigmas=[level]) for level in levels}
    pictures = WholePictures(
        sets=[PairSet("pictures", found.pairs, sources["photographs"].task)], degradations=noises, seed=0
    )
    scores: dict[tuple[str, str], list[float]] = {}
    for index in track(range(len(pictures)), console=Console(stderr=True)):
        sample = pictures[index]
        for name, restore in peers.items():
            restored = restore(sample.degraded[None]).clamp(0, 1)[0]
            score = float(peak_signal_noise_ratio(restored, sample.clean, data_range=1.0))
            scores.setdefault((name, sample.task), []).append(score)

    title = f"{options.pictures.name}: blind PSNR in dB; costs of 1280×720"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    columns = ("", *(f"σ = {level}" for level in levels), "GMACs", "seconds", "live tensors")
    for column in columns:
        table.add_column(column, justify="right")
    noisy = torch.rand(1, 3, 720, 1280)
    route = engine.route_costs.of(engine.restore_and_route(noisy).route)
    with FlopCounterMode(display=False) as counter:
        dncnn(noisy)
    gmacs = {"moceir, ≤ 30 G": float(route[0]) / 1e9, "CDnCNN-B": counter.get_total_flops() / 2e9}
    for name, restore in peers.items():
        psnr = [sum(scores[name, str(level)]) / len(scores[name, str(level)]) for level in levels]
        seconds, live = cost(partial(restore, noisy))
        table.add_row(
            name, *(f"{score:.2f}" for score in psnr), f"{gmacs[name]:.1f}", f"{seconds:.2f}", f"{live / 1e6:.0f} MB"
        )
    Console(width=112).print(table)


if __name__ == "__main__":
    main()
