"""``moceir restore``: picture files in, restored picture files out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from moceir.cli.options import Device, MacBudget, PostFilter, TopK, Weights, load
from moceir.data.images import IMAGE_SUFFIXES, ImageError
from moceir.inference.restore import Restorer, plan


def restore(
    inputs: Annotated[list[str], typer.Argument(help="Pictures, folders (searched recursively) or glob patterns.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder; for one picture, a file name will do.")],
    weights: Weights = None,
    topk: TopK = None,
    format: Annotated[str | None, typer.Option(help="png, jpg, webp, bmp or tiff. Default: as the input.")] = None,
    mac_budget: MacBudget = 30.0,
    post_filter: PostFilter = False,
    device: Device = "cpu",
    tile: Annotated[
        int | None,
        typer.Option(help="Restore in blended tiles of so many pixels a side: less memory, another result."),
    ] = None,
) -> None:
    """Restore pictures.

    A picture that cannot be read is named at the end and the others are restored all the same; the exit status is
    then 1.
    """
    suffix = None if format is None else f".{format.lower().removeprefix('.')}"
    if suffix is not None and suffix not in IMAGE_SUFFIXES:
        raise ValueError(f"--format {format}: use png, jpg, webp, bmp or tiff")
    jobs = plan(inputs, output, suffix=suffix)
    restorer = Restorer(
        load(weights, topk), mac_budget=mac_budget or None, post_filter=post_filter, device=device, tile=tile
    )
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    failures = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("restoring", total=len(jobs))
        for source, target in jobs:
            try:
                restorer.restore_file(source, target)
            except ImageError as error:
                failures.append(error)
            progress.advance(task)
    console.print(f"restored {len(jobs) - len(failures)} of {len(jobs)} pictures into {escape(str(output))}")
    for failure in failures:
        console.print(f"[bold red]error:[/] {escape(str(failure))}")
    if failures:
        raise typer.Exit(1)
