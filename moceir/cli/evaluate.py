"""``moceir evaluate``: PSNR and SSIM on clean pictures with synthetic noise."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from moceir.cli.options import Device, MacBudget, PostFilter, TopK, Weights, load
from moceir.data.degradations import Degradation, GaussianNoise, PoissonNoise
from moceir.data.images import find_images, write_atomically
from moceir.inference.evaluate import evaluate as scores_of
from moceir.inference.restore import move


def evaluate(
    folder: Annotated[Path, typer.Argument(help="A folder of clean pictures.")],
    weights: Weights = None,
    topk: TopK = None,
    sigma: Annotated[
        list[float], typer.Option(help="Gaussian noise, 0–255 scale; repeatable. Default: 15 25 50.")
    ] = [],
    poisson: Annotated[list[float], typer.Option(help="Poisson noise: mean photons of white; repeatable.")] = [],
    seed: Annotated[int, typer.Option(help="Decides the noise.")] = 0,
    mac_budget: MacBudget = 0.0,
    post_filter: PostFilter = False,
    device: Device = "cpu",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every picture's scores here.")] = None,
) -> None:
    """Add noise to clean pictures, restore them and compare.

    Blind: the network is not told the noise. The noise is neither clipped nor rounded; PSNR and SSIM are means over
    pictures, of RGB in [0, 1], without rounding unless the filter is on.
    """
    files = find_images(folder)
    if not files:
        raise ValueError(f"{folder}: no such folder, or no PNG, JPEG, WebP, BMP or TIFF in it or below it")
    network = move(load(weights, topk), device)
    network.mac_budget = mac_budget or None
    if not sigma and not poisson:
        sigma = [15, 25, 50]
    degradations: dict[str, Degradation] = {f"Gaussian σ={level:g}": GaussianNoise(sigmas=[level]) for level in sigma}
    degradations |= {f"Poisson scale={scale:g}": PoissonNoise(scale=scale) for scale in poisson}

    console = Console()
    scores = list(
        track(
            scores_of(network, files, degradations, seed=seed, post_filter=post_filter),
            total=len(files) * len(degradations),
            description="evaluating",
            console=Console(stderr=True),
        )
    )
    table = Table(title=escape(f"{len(files)} pictures of {folder}"), title_justify="left", title_style="bold")
    table.add_column("noise")
    for column in ("noisy PSNR", "PSNR", "SSIM", "GMACs at 720p"):
        table.add_column(column, justify="right")
    for task in degradations:
        of_task = [score for score in scores if score.task == task]
        table.add_row(
            task,
            f"{fmean(score.degraded_psnr for score in of_task):.2f}",
            f"{fmean(score.psnr for score in of_task):.2f}",
            f"{fmean(score.ssim for score in of_task):.4f}",
            f"{fmean(score.gmacs for score in of_task):.2f}",
        )
    table.caption = (
        f"blind; noise unclipped, seed {seed}; filter {'on' if post_filter else 'off'}; "
        f"MAC budget {f'{mac_budget:g} G' if mac_budget else 'none'}"
    )
    console.print(table)
    if json_file is not None:
        write_atomically(json_file, json.dumps([score._asdict() for score in scores], indent=1).encode())
