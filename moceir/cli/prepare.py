"""``moceir prepare``: check datasets, cut them into squares, pack them for fast reading."""

from __future__ import annotations

import os
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from moceir.cli.options import Data, Override, load_sources
from moceir.data.faults import find_faults
from moceir.data.mixture import find_sets
from moceir.data.pack import write_pack
from moceir.data.parallel import in_parallel
from moceir.data.prepare import tile as tile_pictures
from moceir.data.shards import INDEX, find_damage, read_index, write_index, write_shards
from moceir.data.sources import Source

app = typer.Typer(help="Check datasets, cut them into squares, pack them for fast reading.", no_args_is_help=True)

Root = Annotated[Path, typer.Argument(help="The folder that holds the datasets.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="A folder outside ROOT: the new data.root.")]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Leave out datasets that are not there.")]
Tile = Annotated[int | None, typer.Option(min=1, help="Side of the squares. Default: 512 for SIDD, the rest whole.")]
Stride = Annotated[int | None, typer.Option(min=1, help="From one square to the next. Default: 384 for SIDD.")]
Workers = Annotated[int, typer.Option(min=1, help="Threads.")]
CORES = os.cpu_count() or 1


class Format(StrEnum):
    """The file formats of packed data."""

    safetensors = "safetensors"
    webdataset = "webdataset"


@app.command()
def check(
    root: Root,
    data: Data = "all",
    override: Override = [],
    crop: Annotated[int, typer.Option(min=1, help="Pictures smaller than this are problems.")] = 128,
    workers: Workers = CORES,
) -> None:
    """Decode every picture and show what is missing, unpaired, unreadable or of the wrong size; packs and shards, too.

    The exit status is 1 when anything is.
    """
    sources = load_sources(data, override)
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    table = Table(title=escape(f"{data} in {root}"), title_justify="left", title_style="bold")
    table.add_column("dataset", no_wrap=True)
    for column in ("found", "expected", "unpaired", "unreadable", "wrong size"):
        table.add_column(column, justify="right")
    table.add_column("")
    problems = []
    shards = read_index(str(root)) if (root / INDEX).is_file() else {}
    for name, source in sources.items():
        expected = f"{source.expected:,}" if source.expected else "–"
        if name in shards:
            parts = [shard for part in shards[name].values() for shard in part]
            jobs = in_parallel(partial(find_damage, str(root)), parts, workers=workers, description=name)
            found_here = [damage for of_shard in jobs for damage in of_shard]
            verdict = "[red]faulty[/]" if found_here else "[green]whole[/]"
            table.add_row(
                name, f"{sum(one.samples for one in parts):,}", expected, "", str(len(found_here)), "", verdict
            )
            problems += found_here
            continue
        folder = source.locate(root)
        if folder is None:
            table.add_row(name, "0", expected, "", "", "", "[red]missing[/]")
            problems.append(f"{name}: no folder {' or '.join(source.folders)} in {root} or one level below")
            continue
        try:
            listing = source.find(folder)
        except ValueError as error:
            table.add_row(name, "", expected, "", "", "", "[red]unreadable[/]")
            problems.append(str(error))
            continue
        faults = find_faults(listing.pairs, crop=crop, decode=True, workers=workers, description=name)
        found = len(listing.pairs)
        whole = found >= (source.expected or 1)  # there are more if the user cut them into squares
        found_here = [f"{file}: its partner is missing" for file in listing.unpaired]
        found_here += [*faults.unreadable, *faults.wrong_size]
        found_here += [] if whole else [f"{name}: {found:,} pictures in {folder}; {expected} make it whole"]
        counts = (len(listing.unpaired), len(faults.unreadable), len(faults.wrong_size))
        table.add_row(
            name, f"{found:,}", expected, *map(str, counts), "[red]faulty[/]" if found_here else "[green]whole[/]"
        )
        problems += found_here
    Console().print(table)
    for problem in problems:
        Console(soft_wrap=True, highlight=False).print(f"[bold red]problem:[/] {escape(problem)}")
    if problems:
        raise typer.Exit(1)


@app.command()
def tile(
    root: Root,
    output: Output,
    data: Data = "sidd",
    override: Override = [],
    size: Tile = None,
    stride: Stride = None,
    allow_missing: AllowMissing = False,
    workers: Workers = CORES,
) -> None:
    """Cut pictures into squares, as PNG files in the dataset's own layout.

    To complete a killed run, repeat the command. Afterwards data.root=OUTPUT trains from the squares.
    """
    sources = _tiled(load_sources(data, override), size, stride)
    _keep_apart(root, output)
    for name, source in sources.items():
        if source.tile is None:
            raise ValueError(f"{name} is not tiled unless you say how: --size 512 --stride 384")
    whole = {name: replace(source, tile=None) for name, source in sources.items()}
    for name, listing in find_sets(root, whole, allow_missing=allow_missing).items():
        source = sources[name]
        folder = output / listing.folder.name
        squares = tile_pictures(
            source, listing, folder, size=source.tile or 0, stride=source.stride or source.tile or 0,
            workers=workers, description=name,
        )  # fmt: skip
        Console(stderr=True, soft_wrap=True, highlight=False).print(
            f"{name}: {squares:,} squares of {len(listing.pairs):,} pictures in {escape(str(folder))}"
        )


@app.command()
def pack(
    root: Root,
    output: Output,
    data: Data = "all",
    override: Override = [],
    format: Annotated[Format, typer.Option(help="safetensors for a local disk, webdataset for streaming.")] = (
        Format.safetensors
    ),
    size: Tile = None,
    stride: Stride = None,
    shard_mib: Annotated[int, typer.Option(min=1, help="About how large each file becomes, in MiB.")] = 256,
    allow_missing: AllowMissing = False,
    workers: Workers = CORES,
) -> None:
    """Pack many pictures into few files.

    To complete a killed run, repeat the command. Afterwards data.root=OUTPUT trains from the packed files; for
    webdataset, add data=streaming.
    """
    sources = _tiled(load_sources(data, override), size, stride)
    _keep_apart(root, output)
    listings = find_sets(root, sources, allow_missing=allow_missing)
    shards = {}
    for name, listing in listings.items():
        folder = output / sources[name].folders[0] if format is Format.safetensors else output
        if format is Format.safetensors:
            write_pack(listing.pairs, folder, shard_mib=shard_mib, workers=workers, description=name)
        else:
            parts = sources[name].split(listing.pairs)
            parts = {f"{name}-{part}": parts[part] for part in ("train", "validation")}
            written = write_shards(parts, folder, shard_mib=shard_mib, workers=workers, description=name)
            shards[name] = {part: written[f"{name}-{part}"] for part in ("train", "validation")}
        Console(stderr=True, soft_wrap=True, highlight=False).print(
            f"{name}: {len(listing.pairs):,} pictures in {escape(str(folder))}"
        )
    if shards:
        write_index(output, shards)


def _tiled(sources: dict[str, Source], size: int | None, stride: int | None) -> dict[str, Source]:
    if size is None and stride is None:
        return sources
    if size is None:
        raise ValueError("--stride goes with --size")
    return {name: replace(source, tile=size, stride=stride or size) for name, source in sources.items()}


def _keep_apart(root: Path, output: Path) -> None:
    if output.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"--output {output} lies in {root}; choose a folder outside, so that nothing there is touched")
