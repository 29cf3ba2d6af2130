"""``moceir restore``: picture and video files in, restored ones out."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from threading import Event
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from moceir.cli.options import Device, MacBudget, PostFilter, Threads, TopK, Weights, resolve_device
from moceir.inference.folder import Job, Journal, Plan, Shard, common_folder, fingerprint, plan, restore_all
from moceir.inference.restore import Report, Restorer
from moceir.inference.video import restore_video
from moceir.inference.weights import SHIPPED, load_weights
from moceir.pictures.files import read_bytes, write_atomically
from moceir.pictures.formats import BY_SUFFIX, MAX_PIXELS, TIFF, format_of, missing, names
from moceir.pictures.picture import PictureError
from moceir.pictures.video import is_video

_STDIO = "-"


def restore(
    inputs: Annotated[
        list[str],
        typer.Argument(help="Pictures, folders (searched recursively), glob patterns or @LIST; - for standard input."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A folder; for one picture, a file name, or - for standard output."),
    ] = None,
    weights: Weights = SHIPPED[0],
    topk: TopK = None,
    format: Annotated[str | None, typer.Option(help="png, jpg, webp, tiff … Default: as the input.")] = None,
    suffix: Annotated[str, typer.Option(help="Added to each name, as in --suffix _restored.")] = "",
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the pictures with the restored ones.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out pictures whose output exists, whatever wrote it.")
    ] = False,
    strength: Annotated[float, typer.Option(help="0: the input, 1: the network's result; between: a blend.")] = 1.0,
    texture: Annotated[float, typer.Option(help="Share of the lost fine texture to put back, 0 to 1.")] = 0.0,
    quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="Quality of JPEG, WebP and AVIF. Default: 95; WebP lossless.")
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="A folder for pictures of before and after.")] = None,
    mac_budget: MacBudget = 30.0,
    post_filter: PostFilter = False,
    device: Device = "auto",
    threads: Threads = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Pictures at once.")] = 1,
    shards: Annotated[
        str | None,
        typer.Option(help="K/N: every Nth picture, starting at the Kth; give each of N processes its own K."),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            help="Restore in blended tiles with sides of this many pixels; needs less memory, changes the result."
        ),
    ] = None,
    max_pixels: Annotated[int, typer.Option(min=0, help="Refuse files of more pixels; 0 for any number.")] = MAX_PIXELS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each picture, on stdout.")] = False,
) -> None:
    """Restore pictures.

    If a picture cannot be read, the others are still restored; the command names it at the end and exits with 1. To
    continue a killed run over many pictures, repeat the command.
    """
    extension = None if format is None else f".{format.lower().removeprefix('.')}"
    if extension is not None and not (extension in BY_SUFFIX and BY_SUFFIX[extension].written):
        raise ValueError(f"--format {format}: use one of {names(written=True)}")
    shard = None if shards is None else Shard.parse(shards)
    if in_place and skip_existing:
        raise ValueError("--in-place and --skip-existing: every target exists, so nothing would be restored")
    # Silence the libraries: our own messages name the file.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="PIL")
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    piped = inputs == [_STDIO] or output == Path(_STDIO)
    if piped and (
        len(inputs) > 1 or in_place or suffix or compare or dry_run or shard or (as_json and output == Path(_STDIO))
    ):
        raise ValueError("- is for one picture, without --in-place, --suffix, --compare, --shards, --dry-run or --json")
    planned = Plan([], [], [])
    if not piped:
        planned = plan(inputs, output, format=extension, suffix=suffix, in_place=in_place)
    mine = planned.jobs if shard is None else shard.deal(planned.jobs)
    wanted = [job for job in mine if not (skip_existing and job.target.exists())]
    if (compare or quality) and any(is_video(job.source) for job in wanted):
        raise ValueError("--compare and --quality are for pictures; restore the videos without")
    if dry_run:
        for job in wanted:
            typer.echo(f"{job.source} -> {job.target}")
        console.print(f"{len(wanted)} pictures would be restored")
        _tell_left_out(planned, console)
        return

    network = load_weights(weights, topk=topk)
    restorer = Restorer(
        network,
        mac_budget=mac_budget or None,
        post_filter=post_filter,
        device=resolve_device(device),
        threads=threads,
        tile=tile,
        strength=strength,
        texture=texture,
    )
    limit = max_pixels or None
    if piped:
        _pipe(restorer, inputs[0], output, extension, quality=quality, max_pixels=limit)
        return
    common = common_folder(planned.jobs)
    settings = fingerprint(network, mac_budget, post_filter, device, tile, strength, texture, quality, extension)
    lasting = len(wanted) > 1 or shard is not None
    with Journal(planned.jobs, settings, part=shard) if lasting else nullcontext() as journal:
        left = [job for job in wanted if journal is None or not journal.done(job)]
        if len(left) < len(wanted):
            console.print(f"continuing a run that did not end: {len(wanted) - len(left)} pictures are done")

        def restore_one(job: Job, stop: Event, seen: Callable[[float], None]) -> Report:
            before_replacing = None if journal is None else partial(journal.note, job)
            if is_video(job.source):
                return restore_video(
                    restorer,
                    job.source,
                    job.target,
                    settings=settings,
                    stop=stop,
                    seen=seen,
                    before_replacing=before_replacing,
                )
            return restorer.restore_file(
                job.source,
                job.target,
                quality=quality,
                max_pixels=limit,
                compare=None if compare is None else compare / f"{job.target.absolute().relative_to(common)}.jpg",
                stop=stop,
                before_replacing=before_replacing,
            )

        failures = _run(restore_one, left, jobs, console, journal, as_json=as_json)
    place = "in place" if in_place else f"into {common if output is None else output}"
    console.print(escape(f"restored {len(left) - len(failures)} of {len(left)} pictures {place}"))
    if len(wanted) < len(mine):
        console.print(f"{len(mine) - len(wanted)} already existed")
    _tell_left_out(planned, console)
    for failure in [*failures, *planned.unreadable]:
        console.print(f"[bold red]error:[/] {escape(str(failure))}")
    if failures or planned.unreadable:
        raise typer.Exit(1)


def _run(
    restore_one: Callable[[Job, Event, Callable[[float], None]], Report],
    jobs: Sequence[Job],
    workers: int,
    console: Console,
    journal: Journal | None,
    *,
    as_json: bool,
) -> list[PictureError]:
    """Restore, show progress, and return the failures; on an interrupt, end the command."""
    sizes = {job: _size(job.source) for job in jobs}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}/{task.fields[count]} pictures, {task.fields[rate]:.1f} a minute,"),
        TimeRemainingColumn(),  # by bytes, because pictures differ
        TextColumn("left"),
    )
    failures = []
    shares: dict[Job, float] = {}
    done = 0
    start = time.monotonic()
    with Progress(*columns, console=console) as progress, _sigterm_interrupts():
        task = progress.add_task("restoring", total=sum(sizes.values()), done=0, count=len(jobs), rate=0.0)

        def advance(job: Job, share: float) -> None:
            progress.advance(task, sizes[job] * (share - shares.get(job, 0.0)))
            shares[job] = share

        def one(job: Job, stop: Event) -> Report:
            return restore_one(job, stop, partial(advance, job))

        try:
            for job, outcome in restore_all(one, jobs, workers=workers):
                done += 1
                advance(job, 1.0)
                progress.update(task, done=done, rate=60 * done / (time.monotonic() - start))
                if isinstance(outcome, PictureError):
                    failures.append(outcome)
                    if journal is not None:
                        journal.fail(job, outcome)
                    about: dict[str, Any] = {"error": str(outcome)}
                else:
                    about = outcome._asdict()
                    for warning in outcome.warnings:
                        progress.console.print(f"{escape(str(job.source))}: {escape(warning)}")
                if as_json:
                    typer.echo(json.dumps({"source": str(job.source), "target": str(job.target), **about}))
        except KeyboardInterrupt:
            progress.stop()
            console.print(f"interrupted after {done} of {len(jobs)} pictures; the same command continues from there")
            raise typer.Exit(130) from None
    return failures


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _pipe(
    restorer: Restorer,
    source: str,
    output: Path | None,
    extension: str | None,
    *,
    quality: int | None,
    max_pixels: int | None,
) -> None:
    """Restore one picture from standard input, or to standard output, or both."""
    data = sys.stdin.buffer.read() if source == _STDIO else read_bytes(Path(source))
    if output in (None, Path(_STDIO)):
        kind = format_of(data)
        own = kind.suffixes[0] if kind is not None and kind.written else TIFF.suffixes[0]
        target = Path(f"standard output{extension or own}")
    else:
        assert output is not None
        target = output
    name = "standard input" if source == _STDIO else source
    content, report = restorer.restore_bytes(data, name, target, quality=quality, max_pixels=max_pixels)
    for warning in report.warnings:
        typer.echo(f"{name}: {warning}", err=True)
    if output in (None, Path(_STDIO)):
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        write_atomically(target, content)


def _tell_left_out(planned: Plan, console: Console) -> None:
    """Count the files that are not pictures or cannot be read here, and name some."""
    kinds: dict[str, list[Path]] = {}
    for path in planned.left_out:
        kind = "link to a folder" if path.is_dir() else path.suffix.lower() or "without a suffix"
        kinds.setdefault(kind, []).append(path)
    for kind, paths in sorted(kinds.items()):
        shown = ", ".join(path.name for path in paths[:3]) + (", …" if len(paths) > 3 else "")
        way = f"; {missing(BY_SUFFIX[kind])}" if kind in BY_SUFFIX else ""
        console.print(escape(f"left out {len(paths)} {kind}: {shown}{way}"))
