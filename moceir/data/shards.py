"""Datasets as tar files in WebDataset's layout, to be streamed in the order they are in.

``<set>-train-<plan>-00000.tar`` holds samples ``00000000.clean.png``, ``00000000.degraded.jpg``, ``00000000.json``.
Whole pictures keep their files' bytes, squares of pictures are PNG. ``index.json`` counts what is where.
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import cv2
import fsspec
import numpy as np

from moceir.data.pack import plan_shards
from moceir.data.parallel import in_parallel
from moceir.data.pictures import ImageFile
from moceir.data.sources import Pair
from moceir.pictures.arrays import decode_image
from moceir.pictures.files import write_atomically
from moceir.pictures.picture import ImageError

log = logging.getLogger(__name__)

INDEX = "index.json"
_ATTEMPTS = 4


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
        return decode_image(self.data, self.name)


class Shard(NamedTuple):
    """One tar file."""

    file: str
    """Its name in the folder."""
    samples: int


def need_webdataset() -> None:
    """Raise a ValueError that says how to install it when it is not there."""
    if not find_spec("webdataset"):
        raise ValueError("streaming needs webdataset: pip install 'moceir[streaming]'")


def write_shards(
    parts: Mapping[str, Sequence[Pair]], folder: Path, *, shard_mib: int, workers: int, description: str
) -> dict[str, list[Shard]]:
    """Write a dataset. A killed call is completed by the same call; a complete one writes nothing.

    Args:
        parts: what to write: the part's name, which begins its files' names -> pictures. Those to train on are
            shuffled; those held out stay in order, so that the same are chosen as from files.
        folder: where.
        shard_mib: about how many MiB of pixels go into each file, before compression.
        workers: threads.
        description: for the progress bar.

    Raises:
        ImageError: when a picture cannot be read.
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
        # The plan's fingerprint goes into the names, so that files of another plan are not taken for finished ones.
        names = [f"{part}-{fingerprint[:8]}-{number:05d}.tar" for number in range(len(shards))]
        strange = sorted(path.name for path in folder.glob(f"{part}-*.tar") if path.name not in names)
        if strange:
            raise ValueError(
                f"{folder / strange[0]}: written from other pictures or in another way; choose an empty folder"
            )
        jobs = [job for job in zip(names, shards, starts, strict=False) if not (folder / job[0]).exists()]

        def write(job: tuple[str, list[Pair], int]) -> None:
            name, shard, start = job
            write_atomically(folder / name, _tar(shard, int(start)))

        for _ in in_parallel(write, jobs, workers=workers, description=description):
            pass
        written[part] = [Shard(name, len(shard)) for name, shard in zip(names, shards, strict=True)]
    return written


def write_index(folder: Path, shards: Mapping[str, Mapping[str, Sequence[Shard]]]) -> None:
    """Say what a folder holds: set -> part -> shards. Other sets that are there already stay."""
    place = folder / INDEX
    sets = {**(read_index(str(folder)) if place.exists() else {}), **shards}
    content = json.dumps({"format": "moceir-shards-1", "sets": dict(sorted(sets.items()))}, indent=1).encode()
    if not place.exists() or place.read_bytes() != content:
        write_atomically(place, content)


def read_index(root: str) -> dict[str, dict[str, list[Shard]]]:
    """Set -> part -> shards of a folder or URL.

    Raises:
        ValueError: when there is no index, or it is none of ours.
    """
    place = f"{root.rstrip('/')}/{INDEX}"
    try:
        with fsspec.open(place, "rb") as file:
            index = json.load(file)
        if index["format"] != "moceir-shards-1":
            raise KeyError(index["format"])
        return {
            name: {part: [Shard(*shard) for shard in of_part] for part, of_part in parts.items()}
            for name, parts in index["sets"].items()
        }
    except Exception as error:  # each kind of storage has its own
        raise ValueError(
            f"{place}: no readable index of shards ({error!r}); `moceir prepare pack --format webdataset` writes one"
        ) from error


def read_shard(url: str, numbers: Collection[int]) -> Generator[tuple[int, int, Pair], None, None]:
    """Number in the tar file, key and pictures of the wanted samples, in the file's order; none behind them is read.

    When reading fails the file is opened again and read up to where it was; a few failures in a row are too many.

    Raises:
        ImageError: when it is not there, cannot be read, or lacks samples.
    """
    left = set(numbers)
    failures = 0
    while left:
        try:
            with fsspec.open(url, "rb") as file:
                for number, sample in enumerate(_samples(file, url)):
                    if number in left:
                        left.remove(number)
                        failures = 0
                        yield number, int(sample["__key__"]), _pair(sample)
                        if not left:
                            return
            raise EOFError(f"there is no sample {min(left)} in it")
        except ImageError:
            raise
        except Exception as error:  # each kind of storage has its own
            failures += 1
            if failures == _ATTEMPTS or isinstance(error, FileNotFoundError):
                raise ImageError(
                    f"{url}: could not be read, {failures} times ({error!r}); copy or write the shards again, or mend "
                    "the connection, and resume from checkpoints/last.ckpt"
                ) from error
            log.warning("%s: reading broke off before sample %d (%r); trying again", url, min(left), error)
            time.sleep(0.5 * 4 ** (failures - 1))


def _samples(file: BinaryIO, url: str) -> Iterator[dict]:
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    # Only the tar is read by webdataset: its openers may run programs, its decoders unpickle.
    return group_by_keys({"__url__": url} | item for item in tar_file_iterator(file))


def _pair(sample: Mapping) -> Pair:
    names = {name.partition(".")[0]: name for name in sample}
    where = f"{sample['__url__']}:{sample['__key__']}"
    if "clean" not in names or "json" not in names:
        raise ImageError(f"{where}: holds no clean picture, or no description; write the shards again")
    about = json.loads(sample["json"])
    clean, degraded = (
        EncodedPicture(sample[names[part]], f"{where}.{names[part]}") if part in names else None
        for part in ("clean", "degraded")
    )
    return Pair(cast(EncodedPicture, clean), degraded, about["name"], about["group"])


def _tar(shard: Sequence[Pair], start: int) -> bytes:
    from webdataset.writer import TarWriter

    stream = io.BytesIO()
    writer = TarWriter(stream, encoder=False, mtime=0, user="moceir", group="moceir")
    for number, pair in enumerate(shard, start=start):
        about = json.dumps({"name": pair.name, "group": pair.group})
        writer.write({"__key__": f"{number:08d}", "json": about.encode()} | _encode(pair))
    writer.close()
    return stream.getvalue()


def _encode(pair: Pair) -> dict[str, bytes]:
    """Name and content of the clean and the degraded picture."""
    clean, degraded = pair.open()  # whatever is written can be read
    contents = {}
    for part, picture, image in (("clean", pair.clean, clean), ("degraded", pair.degraded, degraded)):
        if isinstance(picture, ImageFile) and pair.window is None:
            path = Path(picture.path)
            contents[part + path.suffix.lower()] = path.read_bytes()
        elif image is not None:
            contents[f"{part}.png"] = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    return contents
