"""Training from tar files on a local folder, a web server or an object store: no disk needs to hold the data."""

from __future__ import annotations

import logging
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from moceir.data.datamodule import RestorationDataModule, ResumableLoader
from moceir.data.datasets import EpochSampler, PairSet, Sample, Stream, WholePictures, collate, training_sample
from moceir.data.degradations import Degradation, checked_probability
from moceir.data.mixture import spread, tabulate
from moceir.data.pairs import Pair
from moceir.data.shards import Shard, read_index, read_shard
from moceir.pictures.picture import ImageError

log = logging.getLogger(__name__)

_MIXED = 1024
"""Of so many samples the shards are read at once, by turns: batches are of several datasets."""
_BUFFER = 64
"""How far, about, a sample moves from its place in them; fewer wait in memory, encoded."""


class StreamedSet(NamedTuple):
    """The training part of one dataset."""

    name: str
    task: str
    repeat: int
    shards: Sequence[Shard]

    def samples(self) -> int:
        """In an epoch."""
        return self.repeat * sum(shard.samples for shard in self.shards)


class Visit(NamedTuple):
    """One reading of one shard within an epoch."""

    set: str
    task: str
    round: int
    """Which repeat of the dataset."""
    shard: Shard


class StreamedCrops(Dataset[Sample]):
    """Random crops of several datasets, in the order in which their shards are read.

    In an epoch every shard is read as often as its dataset repeats, in an order that changes with the epoch. The
    samples are dealt out in equal stretches to the ranks, and within each to its workers, a batch from each in turn; so
    every rank has the same number of batches and, up to what does not fill a batch on every rank, every sample comes
    once. A shard at a border is read by both neighbours. Crop, flips and noise of a sample depend on the seed, the
    epoch, the sample and its round; the order depends on the numbers of ranks and workers too.

    Item (e, i) is the i-th of this rank in epoch e. It comes fast where items are asked for in order, every
    ``workers``-th batch by the same process, as a loader does; elsewhere shards are opened anew.

    Args:
        root: a folder or URL that fsspec can open.
        sets: what to draw from.
        crop: side of the square crops, in pixels.
        degradation: what to do to a crop of a picture that is clean.
        batch_size: samples in a batch.
        seed: decides order, crops, flips and noise.
        rank: of this process.
        world_size: how many there are.
        workers: how many processes load for it.
        detail: probability of choosing a crop by its detail.
        grey: probability of making a crop grey.
        skip_broken: name a sample that is damaged and give the next whole one in its place, too; else it ends the run.
    """

    def __init__(
        self,
        *,
        root: str,
        sets: Sequence[StreamedSet],
        crop: int,
        degradation: Degradation,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        workers: int,
        detail: float = 0,
        grey: float = 0,
        skip_broken: bool = False,
    ) -> None:
        self.root = root
        self.skip_broken = skip_broken
        self.crop = crop
        self.degradation = degradation
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.workers = max(1, workers)
        self.detail = checked_probability("detail", detail)
        self.grey = checked_probability("grey", grey)
        self.batches = sum(one.samples() for one in sets) // (world_size * batch_size)
        self._visits = [
            Visit(one.name, one.task, r, shard) for one in sets for r in range(one.repeat) for shard in one.shards
        ]
        self._samples: Iterator[tuple[Visit, int, Pair]] = iter(())
        self._next: tuple[int, int, int] | None = None

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """The sample of (epoch, number).

        Raises:
            ImageError: as :func:`training_sample`, and when a shard cannot be read.
        """
        epoch, number = item
        batch, place = divmod(number, self.batch_size)
        round, stream = divmod(batch, self.workers)
        position = round * self.batch_size + place
        if self._next != (epoch, stream, position):
            self._samples = self._read(self.plan(epoch, stream)[position:])
        self._next = epoch, stream, position + 1
        visit, key, pair = next(self._samples)
        return training_sample(
            pair,
            task=visit.task,
            name=f"{visit.set}/{pair.name}",
            crop=self.crop,
            degradation=self.degradation,
            rng=np.random.default_rng(
                (self.seed, epoch, visit.round, zlib.crc32(visit.set.encode()), key, Stream.CROP)
            ),
            detail=self.detail,
            grey=self.grey,
        )

    def plan(self, epoch: int, stream: int) -> list[tuple[Visit, int]]:
        """What a worker gives in an epoch: samples of visits, by their number in the shard. Nothing is read for it."""
        counts = [len(range(s, self.batches, self.workers)) * self.batch_size for s in range(self.workers)]
        start = self.rank * len(self) + sum(counts[:stream])
        end = start + counts[stream]
        pieces: list[tuple[Visit, Iterator[int]]] = []
        turns: list[int] = []  # whose sample comes next
        for index in np.random.default_rng((self.seed, epoch, Stream.SHARDS)).permutation(len(self._visits)):
            visit = self._visits[index]
            piece = range(max(start, 0), min(end, visit.shard.samples))
            turns += [len(pieces)] * len(piece)
            pieces.append((visit, iter(piece)))
            start, end = start - visit.shard.samples, end - visit.shard.samples

        rng = np.random.default_rng((self.seed, epoch, self.rank, stream, Stream.SHARDS))
        plan: list[tuple[Visit, int]] = []
        for first in range(0, len(turns), _MIXED):
            for turn in rng.permutation(turns[first : first + _MIXED]):
                visit, numbers = pieces[turn]
                plan.append((visit, next(numbers)))
        # Within a shard, too, another order in every epoch.
        return [plan[i] for i in np.argsort(np.arange(len(plan)) + rng.uniform(0, _BUFFER, len(plan)))]

    def _read(self, plan: Sequence[tuple[Visit, int]]) -> Iterator[tuple[Visit, int, Pair]]:
        """The samples of a plan; each shard is read once, from its start to the last that is wanted of it.

        Raises:
            ImageError: when one is damaged and not to be skipped, or there is none to take its place.
        """
        wanted: dict[Visit, set[int]] = defaultdict(set)
        for visit, number in plan:
            wanted[visit].add(number)
        readers = {visit: read_shard(self.root, visit.shard, numbers) for visit, numbers in wanted.items()}
        waiting: dict[tuple[Visit, int], tuple[int, Pair | ImageError]] = {}

        def fetch(visit: Visit, number: int) -> tuple[Visit, int, Pair | ImageError]:
            while (visit, number) not in waiting:
                found, key, pair = next(readers[visit])
                waiting[visit, found] = key, pair
                wanted[visit].remove(found)
                if not wanted[visit]:
                    readers.pop(visit).close()
            return visit, *waiting[visit, number]

        whole: tuple[Visit, int, Pair] | None = None
        for place, entry in enumerate(plan):
            visit, key, pair = fetch(*entry)
            if isinstance(pair, ImageError):
                if not self.skip_broken:
                    raise pair
                log.warning("%s; left out (data.skip_broken=true)", pair)
                # The next whole one, so that a run that is resumed here takes the same.
                following = (fetch(*later) for later in plan[place + 1 :])
                whole = next(((v, k, p) for v, k, p in following if not isinstance(p, ImageError)), whole)
                if whole is None:
                    raise pair
            else:
                whole = visit, key, pair
            del waiting[entry]
            yield whole


class InOrder(EpochSampler):
    """Keys (epoch, number) in order, of data that are mixed where they are read."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        start, self.skip = self.skip, 0
        return ((self.epoch, number) for number in range(start, len(self)))


class StreamingDataModule(RestorationDataModule):
    """As :class:`RestorationDataModule`, from what ``moceir prepare pack --format webdataset`` wrote.

    ``root`` may be a URL of any kind that fsspec opens. What is held out, and tiles, were decided as it was written;
    held-out pictures are read once and kept in memory, encoded. ``skip_broken``: name damaged samples and leave them
    out; else the first one ends the run.
    """

    def __init__(self, *, skip_broken: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.skip_broken = skip_broken

    def prepare_data(self) -> None:
        """Look whether everything is there. Shards hold only what could be read when they were written.

        Raises:
            ValueError: as :meth:`setup`.
        """
        self._index()

    def setup(self, stage: str) -> None:
        """Read the index and the held-out pictures.

        Raises:
            ValueError: when there is no index, or datasets are missing.
            ImageError: when shards of held-out pictures cannot be read.
        """
        index = self._index()
        self.streamed = [
            StreamedSet(name, source.task, source.repeat, index[name]["train"])
            for name, source in self.sources.items()
            if name in index
        ]
        held_out = [PairSet(one.name, self._held_out(index[one.name]["validation"]), one.task) for one in self.streamed]
        self.val_set = WholePictures(sets=held_out, degradations=self.validation_degradations, seed=self.seed)
        found = {name: sum(shard.samples for part in parts.values() for shard in part) for name, parts in index.items()}
        left_out = [name for name in self.sources if name not in index]
        self._announce(left_out, tabulate(self.streamed, held_out, found, self.sources))

    def train_dataloader(self) -> ResumableLoader:
        rank, world_size = self._rank()
        batch_size = self._share()
        crops = StreamedCrops(
            root=str(self.root),
            sets=self.streamed,
            crop=self.crop,
            degradation=self.degradation,
            batch_size=batch_size,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            workers=self.num_workers,
            detail=self.detail,
            grey=self.grey,
            skip_broken=self.skip_broken,
        )
        if not crops.batches:
            raise ValueError(f"data.batch_size={self.batch_size} is more than an epoch's samples")
        loader = ResumableLoader(
            crops,
            batch_size=batch_size,
            sampler=InOrder(length=len(crops), seed=self.seed),
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
        return self._resumed(loader)

    def _index(self) -> dict[str, dict[str, list[Shard]]]:
        if not self.root:
            raise ValueError("data.root: streaming needs the folder or URL of what `moceir prepare pack` wrote")
        index = read_index(str(self.root))
        missing = [name for name in self.sources if name not in index]
        if missing and (not self.allow_missing or len(missing) == len(self.sources)):
            raise ValueError(
                f"{self.root}: the index has no {', '.join(missing)}; write their shards too, name the datasets you "
                "want (data.sets), or leave out what is missing (data.allow_missing=true)"
            )
        return index

    def _held_out(self, shards: Sequence[Shard]) -> list[Pair]:
        """Evenly spread pictures, the same as of files: their shards are in the order of names."""
        places = [(shard, number) for shard in shards for number in range(shard.samples)]
        wanted = defaultdict(set)
        for shard, number in spread(places, self.validation_images):
            wanted[shard].add(number)
        pairs = []
        for shard, numbers in wanted.items():
            for _, _, pair in read_shard(str(self.root), shard, numbers):
                if not isinstance(pair, ImageError):
                    pairs.append(pair)
                elif self.skip_broken:
                    log.warning("%s; left out (data.skip_broken=true)", pair)
                else:
                    raise pair
        return pairs
