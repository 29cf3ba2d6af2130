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

from moceir.cli.options import Data, Device, Override, Threads, TopK, Weights, load_sources, resolve_device
from moceir.config import build
from moceir.data.datasets import WholePictures
from moceir.data.degradations import Degradation, GaussianNoise, PoissonNoise
from moceir.data.mixture import sets_to_measure
from moceir.engine.schedule import Engine
from moceir.inference.evaluate import Score
from moceir.inference.evaluate import evaluate as scores_of
from moceir.inference.weights import SHIPPED, load_weights
from moceir.pictures.files import write_atomically


def evaluate(
    root: Annotated[Path, typer.Argument(help="A folder of clean pictures, or, with --data, of datasets.")],
    data: Data = "photographs",
    override: Override = [],
    weights: Weights = SHIPPED[0],
    topk: TopK = None,
    sigma: Annotated[
        list[float], typer.Option(help="Gaussian noise, 0–255 scale; repeatable. Default: 15 25 50.")
    ] = [],
    poisson: Annotated[list[float], typer.Option(help="Poisson noise: mean photons of white; repeatable.")] = [],
    degradation: Annotated[
        str | None, typer.Option(help="The validation degradations of a file in conf/degradation, too.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides the noise.")] = 0,
    mac_budget: Annotated[
        list[float], typer.Option(help="GMACs a 1280×720 picture may cost; 0 for no limit; repeatable.")
    ] = [0.0],
    device: Device = "cpu",
    threads: Threads = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Leave out datasets that are not there.")] = (
        False
    ),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every picture's scores here.")] = None,
) -> None:
    """Restore pictures, after adding noise to clean ones, and compare.

    The evaluation is blind: the network is not told the noise. The noise is neither clipped nor rounded, unless the
    degradation says so. PSNR and SSIM are averaged over pictures, on RGB in [0, 1]: once on the network's output, and
    once in 8 bits after the bilateral filter. If a dataset reserves scenes for testing (PolyU), only those are used.
    """
    sets = sets_to_measure(root, load_sources(data, override), allow_missing=allow_missing)
    network = load_weights(weights, topk=topk)
    device = resolve_device(device)
    engines = {budget: Engine(network, device=device, threads=threads) for budget in mac_budget}
    for budget, engine in engines.items():
        engine.mac_budget = budget or None
    if not sigma and not poisson and degradation is None:
        sigma = [15, 25, 50]
    degradations: dict[str, Degradation] = {f"gaussian_{level:g}": GaussianNoise(sigmas=[level]) for level in sigma}
    degradations |= {f"poisson_{scale:g}": PoissonNoise(scale=scale) for scale in poisson}
    if degradation is not None:
        degradations |= build("data.validation_degradations", [f"degradation={degradation}", *override])

    progress = Console(stderr=True)
    count = len(WholePictures(sets=sets, degradations=degradations, seed=seed))
    scores: dict[float, list[Score]] = {}
    for budget, engine in engines.items():
        restored = scores_of(engine, sets, degradations, seed=seed)
        scores[budget] = list(track(restored, total=count, description="evaluating", console=progress))
    console = Console()
    if not console.is_terminal:
        console.width = 120
    for budget, found in scores.items():
        table = _table(found)
        table.title = f"{escape(str(root))}, {f'within {budget:g} GMACs' if budget else 'any route'}"
        table.caption = (
            f"blind; seed {seed}; PSNR in dB, filtered: after the bilateral filter; GMACs at 1280×720; "
            "experts: in how many % of the layers each was taken"
        )
        console.print(table)
    if json_file is not None:
        rows = [{"mac_budget": budget, **one._asdict()} for budget, found in scores.items() for one in found]
        write_atomically(json_file, json.dumps(rows, indent=1).encode())


def _table(scores: list[Score]) -> Table:
    """The mean scores of each dataset and task."""
    table = Table(title_justify="left", title_style="bold")
    for column in ("dataset", "task"):
        table.add_column(column, no_wrap=True)
    for column in ("pictures", "degraded", "PSNR", "SSIM", "filtered", "SSIM", "GMACs", "experts"):
        table.add_column(column, justify="right")
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.name.partition("/")[0], score.task), []).append(score)
    highest = max(max(score.experts, default=-1) for score in scores)  # stays -1 without routed layers
    for (dataset, task), group in groups.items():
        taken = [expert for score in group for expert in score.experts]
        table.add_row(
            dataset,
            task,
            str(len(group)),
            f"{fmean(score.degraded_psnr for score in group):.2f}",
            f"{fmean(score.psnr for score in group):.2f}",
            f"{fmean(score.ssim for score in group):.4f}",
            f"{fmean(score.filtered_psnr for score in group):.2f}",
            f"{fmean(score.filtered_ssim for score in group):.4f}",
            f"{fmean(score.gmacs for score in group):.2f}",
            " ".join(f"{100 * taken.count(expert) / len(taken):.0f}" for expert in range(highest + 1)),
        )
    return table
