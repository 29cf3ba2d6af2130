"""Datasets as tar files in WebDataset's layout, to be streamed in the order they are in.

``<set>-train-<plan>-00000.tar`` holds samples ``00000000.clean.png``, ``00000000.degraded.jpg``, ``00000000.json``.
Whole pictures keep their files' bytes, squares of pictures are PNG. ``index.json`` counts what is where.
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import fsspec
import numpy as np

from moceir.data.images import ImageError, decode_image, write_atomically
from moceir.data.pack import plan_shards
from moceir.data.parallel import in_parallel
from moceir.data.pictures import ImageFile, Picture
from moceir.data.sources import Pair

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
        parts: what to write: the part's name, which begins its files' names -> pictures. Each part is shuffled.
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
        shuffled = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))]
        shards, fingerprint = plan_shards(shuffled, shard_mib=shard_mib, workers=workers, description=description)
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
    """Say what a folder holds: set -> part -> shards."""
    write_atomically(folder / INDEX, json.dumps({"format": "moceir-shards-1", "sets": shards}, indent=1).encode())


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
        sets = index["sets"]
    except Exception as error:  # each kind of storage has its own
        raise ValueError(
            f"{place}: no readable index of shards ({error!r}); `moceir prepare pack --format webdataset` writes one"
        ) from error
    return {
        name: {part: [Shard(*s) for s in of_part] for part, of_part in parts.items()} for name, parts in sets.items()
    }


def read_shard(url: str, *, start: int, end: int) -> Iterator[tuple[str, Pair]]:
    """Key and pictures of the samples of a tar file from the ``start``-th up to but not including the ``end``-th.

    When reading fails the file is opened again, a few times, and goes on where it was.

    Raises:
        ImageError: when it cannot be read, or ends too early.
        ValueError: when webdataset is not installed.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with fsspec.open(url, "rb") as file:
                for number, sample in enumerate(_samples(file, url)):
                    if number >= start:
                        start = number + 1
                        yield sample
                    if start == end:
                        return
            raise EOFError(f"it ends after sample {start}")
        except ImageError:
            raise
        except Exception as error:  # each kind of storage has its own
            if attempt == _ATTEMPTS - 1:
                raise ImageError(f"{url}: could not be read ({error!r}), {_ATTEMPTS} times") from error
            log.warning("%s: reading broke off at sample %d (%r); trying again", url, start, error)
            time.sleep(0.5 * 4**attempt)


def _samples(file: BinaryIO, url: str) -> Iterator[tuple[str, Pair]]:
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    # Only the tar is read by webdataset; its own decoders would unpickle what is named so.
    for sample in group_by_keys({"__url__": url} | item for item in tar_file_iterator(file)):
        names = {name.partition(".")[0]: name for name in sample}
        where = f"{url}:{sample['__key__']}"
        if "clean" not in names or "json" not in names:
            raise ImageError(f"{where}: holds no clean picture, or no description; write the shards again")
        about = json.loads(sample["json"])
        pictures: dict[str, Picture] = {
            part: EncodedPicture(sample[names[part]], f"{where}.{names[part]}")
            for part in ("clean", "degraded")
            if part in names
        }
        yield sample["__key__"], Pair(pictures["clean"], pictures.get("degraded"), about["name"], about["group"])


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
