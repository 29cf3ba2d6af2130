"""Restores any number of files: plans targets, runs several jobs at once, and continues killed runs."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from threading import Event, Lock
from types import TracebackType
from typing import IO, Any, NamedTuple

from moceir.engine.workers import use_one_thread
from moceir.inference.restore import Report
from moceir.networks.unet import UNet
from moceir.pictures.files import lock, remove_leftovers, search
from moceir.pictures.formats import BY_SUFFIX, PICTURE_SUFFIXES, TIFF, names
from moceir.pictures.picture import PictureError
from moceir.pictures.video import is_video


class Job(NamedTuple):
    """One file to restore."""

    source: Path
    target: Path


class Shard(NamedTuple):
    """One of several shards of a run, each for a process of its own; they share nothing but folders."""

    number: int
    """The shard's number, from 1."""
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse ``K/N``.

        Raises:
            ValueError: when it is something else.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise ValueError(f"--shards {text}: give a number and how many there are, as in 1/8, 2/8, … 8/8")
        return cls(int(number), int(of))

    def deal(self, jobs: Sequence[Job]) -> list[Job]:
        """Select this shard's jobs: every job belongs to exactly one shard."""
        return list(jobs[self.number - 1 :: self.of])

    def __str__(self) -> str:
        return f"{self.number}-of-{self.of}"


class Plan(NamedTuple):
    """The files to restore, and those that are left out."""

    jobs: list[Job]
    left_out: list[Path]
    """Files of kinds that cannot be read, and links to folders."""
    unreadable: list[str]
    """One line for each folder that could not be read."""


def plan(
    inputs: Iterable[str], output: Path | None, *, format: str | None = None, suffix: str = "", in_place: bool = False
) -> Plan:
    """Decide which files to restore, and into which files.

    Args:
        inputs: picture and video files, folders (searched for pictures, their layout kept), glob patterns for
            pictures (``**`` for any depth; the layout below the first folder named is kept), and ``@FILE`` for a list:
            a path on each line, which is also the path below the output.
        output: a folder; a picture file, when the only input is one; or None, for beside the sources.
        format: ``".png"`` and so on, for another format than each source's; None keeps them.
        suffix: goes behind each name, before the format.
        in_place: restored pictures take the sources' places.

    Raises:
        ValueError: when an input matches nothing, two sources would be written to one file, a source would be
            written over unasked, or a picture's name as output does not fit the rest.
    """
    inputs = list(inputs)
    if in_place and (output is not None or format is not None or suffix):
        raise ValueError("--in-place goes with neither an output nor --format nor --suffix")
    if output is None and not in_place and not suffix:
        raise ValueError("say where to: --output FOLDER, --suffix for beside the sources, or --in-place")
    left_out: list[Path] = []
    unreadable: list[str] = []
    if output is not None and (output.suffix.lower() in BY_SUFFIX or is_video(output)) and not output.is_dir():
        if len(inputs) != 1 or not Path(inputs[0]).is_file():
            raise ValueError(f"{output}: the name of a picture; for anything but one picture give a folder")
        if format not in (None, output.suffix.lower()):
            raise ValueError(f"{output}: its format is not {format}; leave one of the two out")
        jobs = [Job(Path(inputs[0]), output.with_name(f"{output.stem}{suffix}{output.suffix}"))]
    else:
        jobs = []
        for pattern in inputs:
            found = _expand(pattern, outside=output)
            left_out += found.left_out
            unreadable += found.unreadable
            for source, relative in found.pictures:
                place = source if output is None else output / relative
                jobs.append(Job(source, place if in_place else _renamed(place, suffix, format)))
    sources: dict[Path, Path] = {}
    originals = {source.resolve() for source, _ in jobs}
    for source, target in jobs:
        previous = sources.setdefault(target, source)
        if previous != source and previous.resolve() != source.resolve():
            raise ValueError(f"{previous} and {source} would both be written to {target}; restore them separately")
        if target.resolve() in originals and not in_place:
            raise ValueError(
                f"{target} is a picture to restore and would be written over; give another output, or --in-place"
            )
    return Plan([Job(source, target) for target, source in sources.items()], left_out, unreadable)


def _renamed(path: Path, suffix: str, format: str | None) -> Path:
    kind = BY_SUFFIX.get(path.suffix.lower())
    if format is None and kind is not None and not kind.written:
        format = TIFF.suffixes[0]  # camera raw
    return path.with_name(f"{path.stem}{suffix}{format or path.suffix}")


class _Expanded(NamedTuple):
    pictures: list[tuple[Path, Path]]
    """List each file with its path below the output."""
    left_out: list[Path]
    unreadable: list[str]


def _expand(pattern: str, *, outside: Path | None) -> _Expanded:
    """List the files that an input names."""
    if pattern.startswith("@"):
        return _Expanded(_listed(Path(pattern[1:])), [], [])
    path = Path(pattern)
    if path.exists() and not path.is_dir():
        return _Expanded([(path, Path(path.name))], [], [])
    left_out: list[Path] = []
    unreadable: list[str] = []
    if path.is_dir():
        root = path
        found, left_out, unreadable = search(path)
    else:
        fixed = pattern[: next((i for i, c in enumerate(pattern) if c in "*?["), len(pattern))]
        root = Path(f"{fixed}*").parent
        matches = (Path(match) for match in sorted(glob.glob(pattern, recursive=True)))
        found = [match for match in matches if not match.is_dir() and match.suffix.lower() in PICTURE_SUFFIXES]
    # A second run into a folder below the input must not restore the first run's results.
    if outside is not None and root.resolve() in outside.resolve().parents:
        found = [file for file in found if not file.resolve().is_relative_to(outside.resolve())]
        left_out = [file for file in left_out if not file.resolve().is_relative_to(outside.resolve())]
    if not found:
        raise ValueError(f"{pattern}: no such file, or no picture among what it names ({names()})")
    return _Expanded([(file, file.relative_to(root)) for file in found], left_out, unreadable)


def _listed(file: Path) -> list[tuple[Path, Path]]:
    """Read the paths in a text file; do not check that they exist, because there may be millions."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"@{file}: no list of paths could be read ({error})") from error
    paths = [Path(line) for line in lines if line]
    if not paths:
        raise ValueError(f"@{file}: lists no picture")
    for path in paths:
        if ".." in path.parts:
            raise ValueError(f"@{file}: {path}: would be written outside the output; list paths without ..")
    return [(path, path.relative_to(path.anchor)) for path in paths]


def common_folder(jobs: Sequence[Job]) -> Path:
    """Return the deepest folder that contains all targets."""
    return Path(os.path.commonpath([job.target.parent.absolute() for job in jobs]))


def fingerprint(network: UNet, *options: object) -> str:
    """Hash what determines a run's results: the version of moceir, the weights, and the options."""
    digest = hashlib.sha256(repr((version("moceir"), network.config, options)).encode())
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()


class Journal:
    """A record of the files that a run has finished, kept beside its targets so that the next run can continue.

    The journal gets a line with the SHA-256 of the content just before a file takes its place. A target is done if it
    has that content and its source has not changed. A run deletes its journal when it ends. The journals of shards
    stay: they record each picture's outcome, and each shard reads those of all others, whatever their number.

    Args:
        jobs: of all parts; the file is in the folder that all targets have in common.
        settings: what decides the results, by :func:`fingerprint`; a journal of other settings is replaced.
        part: names this one of several processes that work at once.

    Raises:
        ValueError: when another run is at work there.
    """

    NAME = ".moceir-run.jsonl"
    PARTS = "moceir-results-{}.jsonl"

    def __init__(self, jobs: Sequence[Job], settings: str, *, part: object = None) -> None:
        folder = common_folder(jobs)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / (self.NAME if part is None else self.PARTS.format(part))
        self.settings = settings
        self._stays = part is not None
        others = sorted(folder.glob(self.PARTS.format("*"))) if self._stays else []
        self._lock = Lock()
        self._file: IO[str] = self.path.open("a+", encoding="utf-8")
        if not lock(self._file):
            raise ValueError(f"{folder}: another run restores into it{'' if part is None else f', as {part}'}")
        self._file.seek(0)
        lines = self._file.readlines()
        if lines and not lines[-1].endswith("\n"):
            self._file.write("\n")
        self._done = self._read(lines)
        if not self._done:
            self._file.truncate(0)
            self._add({"settings": self.settings})
        for other in others:
            if other != self.path:
                self._done |= self._read(other.read_text(encoding="utf-8").splitlines())

    def _read(self, lines: list[str]) -> dict[str, dict[str, Any]]:
        """Map each target to its last line, if the settings have not changed."""
        entries = []
        for line in lines:
            try:
                entries.append(json.loads(line))
            except ValueError:  # the line at which a run was killed
                continue
        if not entries or entries[0] != {"settings": self.settings}:
            return {}
        return {entry["target"]: entry for entry in entries[1:] if "sha256" in entry}

    def _add(self, entry: dict[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()

    def done(self, job: Job) -> bool:
        """Return whether an earlier run has written this target from this source."""
        entry = self._done.get(str(job.target.absolute()))
        if entry is None:
            return False
        try:
            content = job.target.read_bytes()
            same = job.source.samefile(job.target) or entry["source"] == _state(job.source)
        except OSError:
            return False
        return same and hashlib.sha256(content).hexdigest() == entry["sha256"]

    def note(self, job: Job, sha256: str, report: Report) -> None:
        """Record that the target is about to get this content, with its report."""
        entry = {"target": str(job.target.absolute()), "sha256": sha256, "source": _state(job.source)}
        self._add(entry | report._asdict())

    def fail(self, job: Job, error: PictureError) -> None:
        """Record why a picture could not be restored."""
        self._add({"target": str(job.target.absolute()), "error": str(error)})

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self._stays:
            self.path.unlink(missing_ok=True)  # while it is locked
        self.close()

    def close(self) -> None:
        """Close the file, which releases its lock, but keep it."""
        self._file.close()


def _state(path: Path) -> list[Any]:
    status = path.stat()
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]


Restore = Callable[[Job, Event], Report]
"""Restores one file, and raises :class:`~moceir.inference.restore.Stopped` when the event is set."""


def restore_all(
    restore: Restore, jobs: Sequence[Job], *, workers: int = 1
) -> Iterator[tuple[Job, Report | PictureError]]:
    """Restore files, several at once, and yield outcomes as they finish; a failure does not stop the others.

    If the caller's loop ends early, on Ctrl-C for example, the running jobs stop at once and leave no partial files.
    Partial files that killed runs have left in the targets' folders are removed.

    Args:
        restore: does one.
        jobs: what to do.
        workers: pictures at once; they share the restorer's threads.
    """
    for folder in {job.target.resolve().parent for job in jobs}:
        remove_leftovers(folder)
    stop = Event()
    pool = ThreadPoolExecutor(workers, initializer=use_one_thread)
    futures = {pool.submit(restore, job, stop): job for job in jobs}
    try:
        for future in as_completed(futures):
            job = futures.pop(future)
            try:
                yield job, future.result()
            except PictureError as error:
                yield job, error
            except Exception as error:  # a bug of ours must not stop the other pictures
                yield job, PictureError(f"{job.source}: {type(error).__name__}: {error}")
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
