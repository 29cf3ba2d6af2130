"""Streams training data from tar files in a folder, on a web server or in an object store, without a local copy."""

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
from moceir.pictures.picture import PictureError

log = logging.getLogger(__name__)

_MIXED = 1024
"""Samples of all shards within each stretch of this length are interleaved, so that batches mix datasets."""
_BUFFER = 64
"""Maximum distance, in samples, over which samples are shuffled further; fewer samples wait in memory, encoded."""


class StreamedSet(NamedTuple):
    """The training shards of one dataset."""

    name: str
    task: str
    repeat: int
    shards: Sequence[Shard]

    def samples(self) -> int:
        """Return the number of samples in an epoch."""
        return self.repeat * sum(shard.samples for shard in self.shards)


class Visit(NamedTuple):
    """One pass over a shard within an epoch."""

    set: str
    task: str
    round: int
    """Number of the dataset's repetition, from 0."""
    shard: Shard


class StreamedCrops(Dataset[Sample]):
    """Random crops of several datasets, in the order in which their shards are read.

    In each epoch, every shard is read as often as its dataset repeats, in an order that changes with the epoch. The
    samples are split into equal, contiguous ranges, one for each rank, and each rank's range is split over its workers,
    whose batches alternate. So every rank has the same number of batches. Each sample appears once, except those at the
    end that do not fill a batch on every rank. Both neighbours read a shard that lies across two ranges.

    The crop, flips and noise of a sample depend on the seed, the epoch, the sample and its round. The order also
    depends on the number of ranks and workers.

    Item (e, i) is sample i of this rank in epoch e. Access is fast in a loader's order, where each worker process
    requests every ``workers``-th batch. Any other order opens the shards again.

    Args:
        root: a folder or URL that fsspec can open.
        sets: the datasets to draw from.
        crop: side of the square crops, in pixels.
        degradation: degradation of crops of clean pictures.
        batch_size: samples per batch of this rank.
        seed: seed of order, crops, flips and noise.
        rank: number of this training process.
        world_size: number of training processes.
        workers: number of data-loading processes of this rank.
        detail: probability of choosing a crop by its detail.
        grey: probability of making a crop grey.
        skip_broken: log a damaged sample and replace it with the next intact one. Otherwise, it ends the run.
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
        """Return the sample with the key (epoch, number).

        Raises:
            PictureError: when :func:`training_sample` raises it, or a shard cannot be read.
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
        """List the samples that a worker yields in an epoch, as visits and numbers within the shard; read nothing."""
        counts = [len(range(s, self.batches, self.workers)) * self.batch_size for s in range(self.workers)]
        start = self.rank * len(self) + sum(counts[:stream])
        end = start + counts[stream]
        pieces: list[tuple[Visit, Iterator[int]]] = []
        turns: list[int] = []  # for each sample, the index of its piece
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
        # This also changes the order within a shard in every epoch.
        return [plan[i] for i in np.argsort(np.arange(len(plan)) + rng.uniform(0, _BUFFER, len(plan)))]

    def _read(self, plan: Sequence[tuple[Visit, int]]) -> Iterator[tuple[Visit, int, Pair]]:
        """Yield the samples of a plan. Each visit reads its shard once, up to the last sample in the plan.

        Raises:
            PictureError: when a sample is damaged, unless ``skip_broken`` is set and an intact sample can replace it.
        """
        wanted: dict[Visit, set[int]] = defaultdict(set)
        for visit, number in plan:
            wanted[visit].add(number)
        readers = {visit: read_shard(self.root, visit.shard, numbers) for visit, numbers in wanted.items()}
        waiting: dict[tuple[Visit, int], tuple[int, Pair | PictureError]] = {}

        def fetch(visit: Visit, number: int) -> tuple[Visit, int, Pair | PictureError]:
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
            if isinstance(pair, PictureError):
                if not self.skip_broken:
                    raise pair
                log.warning("%s; left out (data.skip_broken=true)", pair)
                # Take the next intact sample, so that a run that resumes here takes the same one.
                following = (fetch(*later) for later in plan[place + 1 :])
                whole = next(((v, k, p) for v, k, p in following if not isinstance(p, PictureError)), whole)
                if whole is None:
                    raise pair
            else:
                whole = visit, key, pair
            del waiting[entry]
            yield whole


class InOrder(EpochSampler):
    """Yields keys (epoch, number) in order, for a dataset that shuffles its samples itself."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        start, self.skip = self.skip, 0
        return ((self.epoch, number) for number in range(start, len(self)))


class StreamingDataModule(RestorationDataModule):
    """A :class:`RestorationDataModule` that reads shards from ``moceir prepare pack --format webdataset``.

    The split and the tiles were fixed when the shards were written. Held-out pictures are read once and kept in memory,
    encoded.

    Args:
        skip_broken: log damaged samples and skip them. Otherwise, the first one ends the run.
        arguments: see :class:`RestorationDataModule`; ``root`` may also be any URL that fsspec can open.
    """

    def __init__(self, *, skip_broken: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.skip_broken = skip_broken

    def prepare_data(self) -> None:
        """Check that the index lists all datasets. Pictures need no check, because each was decoded to write its shard.

        Raises:
            ValueError: when the index is missing, or lacks datasets without ``allow_missing``.
        """
        self._index()

    def setup(self, stage: str) -> None:
        """Read the index and the held-out pictures.

        Raises:
            ValueError: when the index is missing, or lacks datasets without ``allow_missing``.
            PictureError: when held-out pictures cannot be read.
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
            raise ValueError(f"data.batch_size={self.batch_size} exceeds the number of samples in an epoch; lower it")
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
            raise ValueError(
                "data.root: streaming needs the folder or URL of the shards that `moceir prepare pack` wrote"
            )
        index = read_index(str(self.root))
        missing = [name for name in self.sources if name not in index]
        if missing and (not self.allow_missing or len(missing) == len(self.sources)):
            raise ValueError(
                f"{self.root}: the index does not list {', '.join(missing)}; write shards of these datasets, choose "
                "other datasets (data.sets), or skip the missing ones (data.allow_missing=true)"
            )
        return index

    def _held_out(self, shards: Sequence[Shard]) -> list[Pair]:
        """Read evenly spaced held-out pictures: the same ones as without shards, which keep the order of names."""
        places = [(shard, number) for shard in shards for number in range(shard.samples)]
        wanted = defaultdict(set)
        for shard, number in spread(places, self.validation_pictures):
            wanted[shard].add(number)
        pairs = []
        for shard, numbers in wanted.items():
            for _, _, pair in read_shard(str(self.root), shard, numbers):
                if not isinstance(pair, PictureError):
                    pairs.append(pair)
                elif self.skip_broken:
                    log.warning("%s; left out (data.skip_broken=true)", pair)
                else:
                    raise pair
        return pairs
