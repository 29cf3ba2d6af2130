"""``moceir worth``: the loss of quality when the network runs without a block or an expert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from moceir.cli.options import Override, Weights
from moceir.config import build
from moceir.data.datasets import PairSet, WholePictures
from moceir.data.sources import CleanPictures
from moceir.extras import require
from moceir.inference.weights import SHIPPED, load_weights
from moceir.pictures.files import write_atomically

if TYPE_CHECKING:
    from moceir.worth import Worth


def worth(
    root: Annotated[
        Path | None, typer.Argument(help="A folder of clean pictures. Default: those that scikit-image ships.")
    ] = None,
    weights: Weights = SHIPPED[0],
    degradation: Annotated[str, typer.Option(help="The validation degradations of a file in conf/degradation.")] = (
        "benchmark"
    ),
    override: Override = [],
    side: Annotated[
        int, typer.Option(min=32, help="Side in pixels of the square cut from each picture's middle.")
    ] = 160,
    seed: Annotated[int, typer.Option(help="Decides the noise.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the account here.")] = None,
) -> None:
    """Leave out each block and each expert, and report the loss in dB, and in dB for each GMAC saved.

    Routes that follow tasks do not prove that experts differ; the loss without an expert does.
    """
    require("moceir worth", "train", "torchmetrics")
    from moceir.inspection import sample_pictures
    from moceir.worth import account

    network = load_weights(weights)
    pictures = sample_pictures(side) if root is None else _squares(root, side)
    degradations = build("data.validation_degradations", [f"degradation={degradation}", *override])
    progress = Console(stderr=True)
    dataset = WholePictures(sets=[pictures], degradations=degradations, seed=seed)
    samples = [dataset[index] for index in range(len(dataset))]
    found = list(track(account(network, samples), "leaving out", console=progress))
    console = Console()
    if not console.is_terminal:
        console.width = 160
    table = _table(found)
    table.title = f"{weights}: what is lost, dB"
    table.caption = f"{len(pictures.pairs)} squares of {side} pixels; seed {seed}; GMACs at 1280×720 that are saved"
    console.print(table)
    if json_file is not None:
        write_atomically(json_file, json.dumps([one._asdict() for one in found], indent=1).encode())


def _squares(root: Path, side: int) -> PairSet:
    from moceir.inspection import middle_squares

    pairs, _ = CleanPictures(folders=["."]).list_files(root)
    return PairSet(root.name, middle_squares(pairs, side), "")


def _table(found: list[Worth]) -> Table:
    table = Table(title_justify="left", title_style="bold")
    table.add_column("change", no_wrap=True)
    for column in ("GMACs", "mean", "a GMAC", *found[0].lost):
        table.add_column(column, justify="right")
    kind = found[0].change.partition(" ")[0]
    for one in found:
        if one.change.partition(" ")[0] != kind:
            kind = one.change.partition(" ")[0]
            table.add_section()
        rate = f"{one.per_gmac:.3f}" if one.saved > 0 else "–"
        table.add_row(
            one.change, f"{one.saved:.3f}", f"{one.mean:.2f}", rate, *(f"{lost:.2f}" for lost in one.lost.values())
        )
    return table
