"""Stores datasets as tar files in WebDataset's layout, which are streamed sequentially.

``<set>-train-<plan>-00000.tar`` holds samples ``00000000.clean.png``, ``00000000.degraded.jpg``, ``00000000.json``.
Whole pictures keep the bytes of their files; squares of pictures are PNG. The JSON holds the picture's name and group,
and the CRC-32 of each file. ``index.json`` lists the tar files and the number of samples in each.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import tarfile
import zlib
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from time import sleep as _sleep
from typing import Any, BinaryIO, NamedTuple

import cv2
import fsspec
import numpy as np

from moceir.data.pack import plan_shards
from moceir.data.pairs import Pair
from moceir.data.parallel import in_parallel
from moceir.data.pictures import PictureFile
from moceir.extras import require
from moceir.pictures.arrays import decode_picture
from moceir.pictures.files import write_atomically
from moceir.pictures.picture import PictureError

log = logging.getLogger(__name__)

INDEX = "index.json"
_TIMEOUT = 30
"""Maximum number of seconds that a web server may take to answer, or between two pieces of an answer."""
_WAITS = (1, 5, 25)
"""Seconds between attempts. Some kinds of storage also retry within each attempt."""


class EncodedPicture(NamedTuple):
    """The content of a picture file."""

    data: bytes
    name: str

    def __str__(self) -> str:
        return self.name

    def size(self) -> tuple[int, int]:
        height, width = self.open().shape[:2]
        return height, width

    def open(self) -> np.ndarray:
        return decode_picture(self.data, self.name)


class Shard(NamedTuple):
    """One tar file."""

    file: str
    """The file's name in the folder."""
    samples: int
    first: int
    """Key of the first sample; the other keys follow consecutively."""


def need_webdataset() -> None:
    """Raise a ValueError that says how to install webdataset when it is missing."""
    require("streaming", "streaming", "webdataset")


def write_shards(
    parts: Mapping[str, Sequence[Pair]], folder: Path, *, shard_mib: int, workers: int, description: str
) -> dict[str, list[Shard]]:
    """Write a dataset. Repeat an interrupted call to complete it; finished files are not written again.

    Args:
        parts: name -> pictures of each part; the name is the prefix of its files' names. Training pictures (``-train``)
            are shuffled. Held-out pictures stay in order, so that validation uses the same ones as without shards.
        folder: the folder for the tar files.
        shard_mib: approximate MiB of pixels in each file, before compression.
        workers: number of threads.
        description: text beside the progress bar.

    Raises:
        PictureError: when a picture cannot be read.
        ValueError: when the folder holds other files of the same names, or webdataset is not installed.
    """
    need_webdataset()
    written = {}
    for part, pairs in parts.items():
        if part.endswith("-train"):
            pairs = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))]
        shards, fingerprint = plan_shards(pairs, shard_mib=shard_mib, workers=workers, description=description)
        shards = [shard for shard in shards if shard]
        starts = np.cumsum([0, *map(len, shards)])
        # The names include the plan's fingerprint, so that files of another plan do not count as finished.
        names = [f"{part}-{fingerprint[:8]}-{number:05d}.tar" for number in range(len(shards))]
        strange = sorted(path.name for path in folder.glob(f"{part}-*.tar") if path.name not in names)
        if strange:
            raise ValueError(
                f"{folder / strange[0]}: written from other pictures or with other settings; choose an empty folder"
            )
        jobs = [job for job in zip(names, shards, starts, strict=False) if not (folder / job[0]).exists()]

        def write(job: tuple[str, list[Pair], int]) -> None:
            name, shard, start = job
            write_atomically(folder / name, _tar(shard, int(start)), durable=True)

        for _ in in_parallel(write, jobs, workers=workers, description=description):
            pass
        written[part] = [
            Shard(name, len(shard), int(start)) for name, shard, start in zip(names, shards, starts, strict=False)
        ]
    return written


def write_index(folder: Path, shards: Mapping[str, Mapping[str, Sequence[Shard]]]) -> None:
    """Add sets to a folder's index, given set -> part -> shards. Other sets in the index are kept."""
    place = folder / INDEX
    sets = {**(read_index(str(folder)) if place.exists() else {}), **shards}
    counts = {
        name: {part: [(shard.file, shard.samples) for shard in of_part] for part, of_part in sets[name].items()}
        for name in sorted(sets)
    }
    content = json.dumps({"format": "moceir-shards-1", "sets": counts}, indent=1).encode()
    if not place.exists() or place.read_bytes() != content:
        write_atomically(place, content, durable=True)


def read_index(root: str) -> dict[str, dict[str, list[Shard]]]:
    """Read the index of a folder or URL: set -> part -> shards.

    Raises:
        ValueError: when the index is missing or invalid.
    """
    place = f"{root.rstrip('/')}/{INDEX}"
    attempts = _Attempts(place)
    while True:
        try:
            with _open(place) as file:
                content = file.read()
            break
        except Exception as error:  # each kind of storage raises its own exceptions
            try:
                attempts.failed(error)
            except PictureError as last:
                raise ValueError(
                    f"{place}: no readable index of shards ({_reason(error)}); "
                    "`moceir prepare pack --format webdataset` writes one"
                ) from last
    try:
        index = json.loads(content)
        if index["format"] != "moceir-shards-1":
            raise KeyError(index["format"])
        return {
            name: {part: _numbered(of_part) for part, of_part in parts.items()} for name, parts in index["sets"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{place}: no readable index of shards ({error!r}); `moceir prepare pack --format webdataset` writes one"
        ) from error


def _numbered(shards: Iterable[Sequence[Any]]) -> list[Shard]:
    numbered, first = [], 0
    for file, samples in shards:
        if not isinstance(file, str) or "/" in file or not isinstance(samples, int) or samples < 1:
            raise ValueError(f"{file!r} of {samples!r} samples")
        numbered.append(Shard(file, samples, first))
        first += samples
    return numbered


def read_shard(
    root: str, shard: Shard, numbers: Collection[int]
) -> Generator[tuple[int, int, Pair | PictureError], None, None]:
    """Yield the number in the tar file, the key and the pictures of each requested sample.

    Samples come in the file's order, followed by those that the file does not contain. A broken or missing sample has
    an PictureError in place of its pictures. Nothing is read after the last requested sample. When reading fails, the
    file is opened again and read up to the same position, a limited number of times in a row.

    Raises:
        PictureError: when the file is missing, or its storage fails repeatedly.
    """
    url = f"{root.rstrip('/')}/{shard.file}"
    left = set(numbers)
    attempts = _Attempts(url)
    while left:
        try:
            with _open(url) as file:
                for key, contents in _samples(file):
                    number = key - shard.first
                    if number in left:
                        left.remove(number)
                        attempts.failures = 0
                        yield number, key, _pair(contents, f"{url}:{key:08d}")
                        if not left:
                            return
            raise tarfile.ReadError(f"sample {shard.first + min(left):08d} is not in it")
        except Exception as error:  # each kind of storage raises its own exceptions
            try:
                attempts.failed(error)
            except PictureError as last:
                if not isinstance(error, tarfile.TarError):
                    raise
                for number in sorted(left):  # repeated reading gave the same damaged file
                    yield number, shard.first + number, last
                return


def find_damage(root: str, shard: Shard) -> list[str]:
    """Decode every picture, and return one message for each sample that cannot be read."""
    damage = []
    try:
        for _, _, pair in read_shard(root, shard, range(shard.samples)):
            try:
                if isinstance(pair, PictureError):
                    raise pair
                pair.open()
            except PictureError as error:
                damage.append(str(error))
    except PictureError as error:
        damage.append(str(error))
    return damage


class _Attempts:
    """Counts consecutive failures to read one file, and waits between attempts."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.failures = 0

    def failed(self, error: Exception) -> None:
        """Log a failure and wait before the next attempt.

        Raises:
            PictureError: when another attempt cannot succeed, or too many attempts have failed.
        """
        self.failures += 1
        status = _status(error)
        if status is None:
            # fsspec raises FileNotFoundError for every failure to open a URL; the exception's cause is the real reason.
            refused = "://" not in self.url or (isinstance(error, FileNotFoundError) and error.__cause__ is None)
        else:
            refused = status < 500 and status not in (408, 429)
        if refused or self.failures > len(_WAITS):
            raise PictureError(
                f"{self.url}: could not be read (attempts: {self.failures}; {_reason(error)}); copy or write the file "
                "again, or check the connection"
            ) from error
        wait = _WAITS[self.failures - 1]
        log.warning("%s: could not be read (%s); retrying in %d s", self.url, _reason(error), wait)
        _sleep(wait)


def _open(url: str) -> fsspec.core.OpenFile:
    if not url.startswith(("http://", "https://")):
        return fsspec.open(url, "rb")
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_TIMEOUT, sock_read=_TIMEOUT)
    return fsspec.open(url, "rb", client_kwargs={"timeout": timeout})


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: Exception) -> int | None:
    """Return the HTTP status that caused an error, or None."""
    statuses = (getattr(one, "status", None) for one in _causes(error))
    return next((status for status in statuses if isinstance(status, int)), None)


def _reason(error: Exception) -> str:
    status = _status(error)
    if status is not None:
        return f"HTTP status {status}"
    causes = list(_causes(error))
    if any(isinstance(one, asyncio.TimeoutError) for one in causes):
        return f"no answer within {_TIMEOUT} s"
    return repr(causes[-1])


def _samples(file: BinaryIO) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Yield each sample's key and its files by suffix, in the tar file's order. Other files are skipped."""

    def files() -> Iterator[tuple[str, str, bytes]]:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                if content is not None:
                    key, _, name = member.name.partition(".")
                    yield key, name, content.read()

    for key, of_sample in groupby(files(), key=lambda one: one[0]):
        contents = {name: content for _, name, content in of_sample}
        if key.isascii() and key.isdigit() and len(key) == 8:
            yield int(key), contents


def _pair(contents: Mapping[str, bytes], where: str) -> Pair | PictureError:
    names = {name.partition(".")[0]: name for name in contents}
    try:
        about = json.loads(contents["json"])
        name, group, checksums = str(about["name"]), str(about["group"]), dict(about.get("crc32", {}))
        clean, degraded = (
            EncodedPicture(contents[names[part]], f"{where}.{names[part]}") if part in names else None
            for part in ("clean", "degraded")
        )
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return PictureError(f"{where}: damaged (no readable description); write the shards again")
    contents = {**contents, "json": _names(name, group)}
    wrong = [one for one, checksum in checksums.items() if zlib.crc32(contents.get(one, b"")) != checksum]
    if wrong or clean is None:
        return PictureError(f"{where}.{wrong[0] if wrong else 'clean'}: damaged or missing; write the shards again")
    return Pair(clean, degraded, name, group)


def _names(name: str, group: str) -> bytes:
    """Encode those fields of the description that its checksum covers."""
    return f"{name}\n{group}".encode()


def _tar(shard: Sequence[Pair], start: int) -> bytes:
    from webdataset.writer import TarWriter

    stream = io.BytesIO()
    writer = TarWriter(stream, encoder=False, mtime=0, user="moceir", group="moceir")
    for number, pair in enumerate(shard, start=start):
        contents = _encode(pair)
        checksums = {name: zlib.crc32(content) for name, content in contents.items()}
        checksums["json"] = zlib.crc32(_names(pair.name, pair.group))
        about = json.dumps({"name": pair.name, "group": pair.group, "crc32": checksums})
        writer.write({"__key__": f"{number:08d}", "json": about.encode()} | contents)
    writer.close()
    return stream.getvalue()


def _encode(pair: Pair) -> dict[str, bytes]:
    """Return the suffix and content of each picture file of a pair."""
    clean, degraded = pair.open()  # decoding proves that the bytes below are readable
    contents = {}
    for part, picture, pixels in (("clean", pair.clean, clean), ("degraded", pair.degraded, degraded)):
        if isinstance(picture, PictureFile) and pair.window is None:
            path = Path(picture.path)
            contents[part + path.suffix.lower()] = path.read_bytes()
        elif pixels is not None:
            contents[f"{part}.png"] = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    return contents
