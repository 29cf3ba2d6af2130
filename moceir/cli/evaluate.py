"""``moceir evaluate``: PSNR and SSIM on pairs, and on clean pictures with synthetic noise."""

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

from moceir.cli.options import Data, Device, MacBudget, Override, PostFilter, TopK, Weights, load, load_sources
from moceir.data.datasets import PairSet, WholePictures
from moceir.data.degradations import Degradation, GaussianNoise, PoissonNoise
from moceir.data.images import write_atomically
from moceir.data.mixture import find_sets
from moceir.inference.engine import Engine
from moceir.inference.evaluate import Score
from moceir.inference.evaluate import evaluate as scores_of


def evaluate(
    root: Annotated[Path, typer.Argument(help="A folder of clean pictures, or, with --data, of datasets.")],
    data: Data = "photographs",
    override: Override = [],
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
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Leave out datasets that are not there.")] = (
        False
    ),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every picture's scores here.")] = None,
) -> None:
    """Restore pictures, after adding noise to clean ones, and compare.

    Blind: the network is not told the noise. The noise is neither clipped nor rounded; PSNR and SSIM are means over
    pictures, of RGB in [0, 1], without rounding unless the filter is on. Of a dataset that keeps scenes for
    measuring (PolyU), only those are taken.
    """
    sources = load_sources(data, override)
    sets = []
    for name, listing in find_sets(root, sources, allow_missing=allow_missing).items():
        source = sources[name]
        sets.append(PairSet(name, source.split(listing.pairs)["test"] if source.test else listing.pairs, source.task))
    engine = Engine(load(weights, topk), mac_budget=mac_budget or None, device=device)
    if not sigma and not poisson:
        sigma = [15, 25, 50]
    degradations: dict[str, Degradation] = {f"Gaussian σ={level:g}": GaussianNoise(sigmas=[level]) for level in sigma}
    degradations |= {f"Poisson scale={scale:g}": PoissonNoise(scale=scale) for scale in poisson}

    console = Console()
    scores = list(
        track(
            scores_of(engine, sets, degradations, seed=seed, post_filter=post_filter),
            total=len(WholePictures(sets=sets, degradations=degradations, seed=seed)),
            description="evaluating",
            console=Console(stderr=True),
        )
    )
    table = Table(title=escape(str(root)), title_justify="left", title_style="bold")
    for column in ("dataset", "task"):
        table.add_column(column, no_wrap=True)
    for column in ("pictures", "degraded PSNR", "PSNR", "SSIM", "GMACs at 720p"):
        table.add_column(column, justify="right")
    rows: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        rows.setdefault((score.name.partition("/")[0], score.task), []).append(score)
    for (dataset, task), group in rows.items():
        table.add_row(
            dataset,
            task,
            str(len(group)),
            f"{fmean(score.degraded_psnr for score in group):.2f}",
            f"{fmean(score.psnr for score in group):.2f}",
            f"{fmean(score.ssim for score in group):.4f}",
            f"{fmean(score.gmacs for score in group):.2f}",
        )
    table.caption = (
        f"blind; noise unclipped, seed {seed}; filter {'on' if post_filter else 'off'}; "
        f"MAC budget {f'{mac_budget:g} G' if mac_budget else 'none'}"
    )
    console.print(table)
    if json_file is not None:
        write_atomically(json_file, json.dumps([score._asdict() for score in scores], indent=1).encode())
