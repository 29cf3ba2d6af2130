"""The shipped networks and other denoisers on the same pictures, in one run: `make bench-peers`.

- Non-local means is OpenCV's with its default strength.
- CBM3D (Dabov et al., ICIP 2007; `pip install 'moceir[bench]'`) gets σ from scikit-image's estimate, so it is blind.
- CDnCNN-B (Zhang et al., Beyond a Gaussian Denoiser, TIP 2017) is twenty 3×3 convolutions with ReLUs in between, which
  predict the noise. Its file has ``conv{0…19}.weight`` and ``.bias`` in torch's order, converted from the authors'
  model GD_Color_Blind.mat.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import cv2
import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from programs import live_peak
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from skimage.restoration import estimate_sigma
from torch import Tensor

from moceir import Restoration, load_pretrained
from moceir.cli.options import load_sources
from moceir.data.degradations import Degradation, GaussianNoise
from moceir.data.mixture import sets_to_measure
from moceir.engine.allocator import keep_freed_memory
from moceir.engine.schedule import Engine
from moceir.extras import require
from moceir.inference.evaluate import Score, evaluate
from moceir.inference.weights import SHIPPED
from moceir.networks.routes import RouteCosts


class Timed:
    """Restores pictures with a function, and measures how long that takes.

    Args:
        restore: maps (1, 3, H, W) in [0, 1] to the same.
    """

    route_costs = RouteCosts(0)

    def __init__(self, restore: Callable[[Tensor], Tensor]) -> None:
        self.restore = restore
        self.seconds: list[float] = []

    def restore_and_route(self, x: Tensor) -> Restoration:
        """Restore a picture."""
        start = time.perf_counter()
        restored = self.restore(x)
        self.seconds.append(time.perf_counter() - start)
        return Restoration(restored)


class DnCNN:
    """Restores (B, 3, H, W) in [0, 1]."""

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


def on_arrays(denoise: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensor], Tensor]:
    """Make a function of tensors from a function of (H, W, 3) float32 arrays in [0, 1]."""

    def restore(x: Tensor) -> Tensor:
        array = denoise(x[0].permute(1, 2, 0).contiguous().numpy())
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).permute(2, 0, 1)[None]

    return restore


def non_local_means(picture: np.ndarray) -> np.ndarray:
    """OpenCV's filter, which takes 8 bits."""
    denoised = cv2.fastNlMeansDenoisingColored((picture.clip(0, 1) * 255).round().astype(np.uint8))
    return denoised.astype(np.float32) / 255


def cbm3d(picture: np.ndarray) -> np.ndarray:
    """BM3D of colour pictures."""
    import bm3d

    return bm3d.bm3d_rgb(picture, max(estimate_sigma(picture, channel_axis=-1, average_sigmas=True), 1e-4))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of the pictures, as for moceir evaluate")
    parser.add_argument("--data", default="photographs", help="as for moceir evaluate")
    parser.add_argument("--sigma", type=float, action="append", default=[], help="noise for clean pictures")
    parser.add_argument("--count", type=int, help="pictures of each dataset, evenly spaced; the default is all")
    parser.add_argument("--cdncnn", type=Path, help="CDnCNN-B's weights")
    parser.add_argument("--no-cbm3d", action="store_true", help="leave out the slowest method")
    options = parser.parse_args()
    keep_freed_memory()
    methods: dict[str, Timed] = {}
    for name in SHIPPED:
        engine = Engine(load_pretrained(name))
        engine.mac_budget = None
        methods[name] = Timed(lambda x, engine=engine: engine.restore_and_route(x).restored)
    methods["non-local means"] = Timed(on_arrays(non_local_means))
    if not options.no_cbm3d:
        require("this comparison", "bench", "bm3d")
        methods["CBM3D"] = Timed(on_arrays(cbm3d))
    if options.cdncnn is not None:
        methods["CDnCNN-B"] = Timed(DnCNN(options.cdncnn))

    sets = sets_to_measure(options.root, load_sources(options.data, []), allow_missing=False)
    if options.count is not None:
        sets = [one._replace(pairs=one.pairs[:: max(1, -(-len(one.pairs) // options.count))]) for one in sets]
    noise: dict[str, Degradation] = {f"gaussian_{level:g}": GaussianNoise(sigmas=[level]) for level in options.sigma}
    scores: dict[str, list[Score]] = {
        name: list(track(evaluate(method, sets, noise), description=name, console=Console(stderr=True)))
        for name, method in methods.items()
    }
    print_table(methods, scores)


def print_table(methods: dict[str, Timed], scores: dict[str, list[Score]]) -> None:
    """Print the mean PSNR of each task, and what each method costs."""
    tasks = sorted({score.task for score in next(iter(scores.values()))})
    count = len(next(iter(scores.values()))) // len(tasks)
    title = f"{count} pictures, blind, PSNR in dB; seconds of a picture; tensors alive at 1280×720"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for column in ("", *tasks, "seconds", "live tensors"):
        table.add_column(column, justify="right")

    def add(name: str, by_task: dict[str, list[float]], *costs: str) -> None:
        table.add_row(name, *(f"{mean(by_task[task]):.2f}" for task in tasks), *costs)

    degraded = defaultdict(list)
    for score in next(iter(scores.values())):
        degraded[score.task].append(score.degraded_psnr)
    add("degraded", degraded, "", "")
    for name, method in methods.items():
        restored = defaultdict(list)
        for score in scores[name]:
            restored[score.task].append(score.psnr)
        seconds = mean(method.seconds)
        live = live_peak(lambda method=method: method.restore_and_route(torch.rand(1, 3, 720, 1280)))
        tensors = name not in ("non-local means", "CBM3D")
        add(name, restored, f"{seconds:.2f}", f"{live / 1e6:.0f} MB" if tensors else "")
    Console(width=112).print(table)


if __name__ == "__main__":
    main()
