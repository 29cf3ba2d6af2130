"""``moceir sweep``: a multirun folder as a ranking and a plot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from moceir.extras import require


def sweep(folder: Annotated[Path, typer.Argument(help="What a Hydra multirun (-m) wrote.")]) -> None:
    """Rank the runs of a multirun by their best validation PSNR.

    Writes sweep.html (a page to open in a browser), sweep.csv and sweep.png into the folder.
    """
    require("moceir sweep", "train", "omegaconf", "matplotlib")
    from moceir.training.sweep import plot, read_sweep, write_page, write_table

    trials = read_sweep(folder)
    table = Table(title=escape(str(folder)), title_justify="left", title_style="bold")
    keys = list(trials[0].settings)
    last_words = [key.rpartition(".")[2] for key in keys]
    table.add_column("run")
    for key, word in zip(keys, last_words, strict=True):
        table.add_column(word if last_words.count(word) == 1 else key)
    for column in ("PSNR, dB", "GMACs at 720p"):
        table.add_column(column, justify="right")
    for trial in trials:
        results = ("no result", "") if math.isnan(trial.psnr) else (f"{trial.psnr:.3f}", f"{trial.gmacs:.2f}")
        table.add_row(trial.name, *map(_short, trial.settings.values()), *results)
    Console().print(table)
    write_table(trials, folder / "sweep.csv")
    plot(trials, folder / "sweep.png")
    write_page(trials, folder / "sweep.png", folder / "sweep.html")
    Console(stderr=True, soft_wrap=True, highlight=False).print(
        f"also in {folder / 'sweep.html'}, sweep.csv and sweep.png"
    )


def _short(value: str) -> str:
    """Shorten a number to four digits; the CSV file keeps them all."""
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value
