"""Training from tar files on a local folder, a web server or an object store: no disk needs to hold the data."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from moceir.data.datamodule import RestorationDataModule
from moceir.data.datasets import PairSet, Sample, Stream, WholePictures, training_sample
from moceir.data.degradations import Degradation
from moceir.data.mixture import spread, tabulate
from moceir.data.shards import Shard, need_webdataset, read_index, read_shard


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

    set: StreamedSet
    shard: Shard
    round: int
    """Which repeat of the dataset."""


class StreamedCrops(IterableDataset[Sample]):
    """Random crops of several datasets, in the order in which their shards are read.

    In an epoch every shard is read as often as its dataset repeats, in an order that changes with the epoch; a buffer
    mixes neighbours. The epoch's samples are dealt out in equal stretches to the ranks, and within each to its workers,
    so that every rank has the same number of batches and, up to what does not fill a batch on every rank, every sample
    comes once. The crop, flips and noise of a sample depend on the seed, the epoch, the sample and its round; the order
    depends on the numbers of ranks and workers too.

    Args:
        root: a folder or URL that fsspec can open.
        sets: what to draw from.
        crop: side of the square crops, in pixels.
        degradation: what to do to a crop of a picture that is clean.
        batch_size: samples in a batch.
        seed: decides order, crops, flips and noise.
        rank: of this process.
        world_size: how many there are.
        buffer: how many encoded samples wait in memory to be mixed, in each worker.
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
        buffer: int = 256,
    ) -> None:
        self.root = root
        self.sets = list(sets)
        self.crop = crop
        self.degradation = degradation
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.buffer = buffer
        self.batches = sum(one.samples() for one in sets) // (world_size * batch_size)
        # Shared with the workers, which are copies of this object from before the epoch was known.
        self._place = torch.zeros(2, dtype=torch.int64).share_memory_()

    def begin(self, *, epoch: int, batch: int) -> None:
        """The next iteration is of this epoch, from this batch on."""
        self._place.copy_(torch.tensor([epoch, batch]))

    def __iter__(self) -> Iterator[Sample]:
        epoch, first = self._place.tolist()
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        # The loader asks workers 0, 1, … for a batch in turn; worker 0 gives the first, wherever in the epoch that is.
        worker = (worker + first) % workers
        counts = [len(range(w, self.batches, workers)) for w in range(workers)]
        start = (self.rank * self.batches + sum(counts[:worker])) * self.batch_size
        stretch = range(start, start + counts[worker] * self.batch_size)
        skip = len(range(worker, first, workers)) * self.batch_size
        for number, (visit, key, pair) in enumerate(self._mixed(self._read(epoch, stretch), epoch, start)):
            if number >= skip:
                set_number = zlib.crc32(visit.set.name.encode())
                rng = np.random.default_rng((self.seed, epoch, visit.round, set_number, int(key), Stream.CROP))
                yield training_sample(
                    pair,
                    task=visit.set.task,
                    name=f"{visit.set.name}/{pair.name}",
                    crop=self.crop,
                    degradation=self.degradation,
                    rng=rng,
                )

    def _read(self, epoch: int, stretch: range) -> Iterator[tuple[Visit, str, Any]]:
        """The samples of a stretch of the epoch."""
        visits = [Visit(one, shard, r) for one in self.sets for r in range(one.repeat) for shard in one.shards]
        position = 0
        for index in np.random.default_rng((self.seed, epoch, Stream.ORDER)).permutation(len(visits)):
            visit = visits[index]
            start, end = max(stretch.start - position, 0), min(stretch.stop - position, visit.shard.samples)
            if start < end:
                url = f"{self.root.rstrip('/')}/{visit.shard.file}"
                for key, pair in read_shard(url, start=start, end=end):
                    yield visit, key, pair
            position += visit.shard.samples

    def _mixed(self, samples: Iterator, epoch: int, start: int) -> Iterator:
        """The same samples in another order, each not far from its place."""
        rng = np.random.default_rng((self.seed, epoch, start, Stream.SHARDS))
        waiting: list = []
        for sample in samples:
            waiting.append(sample)
            if len(waiting) > self.buffer:
                yield waiting.pop(int(rng.integers(len(waiting))))
        while waiting:
            yield waiting.pop(int(rng.integers(len(waiting))))


class StreamingLoader(DataLoader[Sample]):
    """A loader of :class:`StreamedCrops` that can begin within an epoch.

    Attributes:
        epoch: says which epoch is next.
        start: how many batches to leave out, the next time only.
        given: how many of the epoch have been given out or left out.
    """

    dataset: StreamedCrops
    start = 0
    given = 0

    def __init__(self, dataset: StreamedCrops, *, epoch: Callable[[], int], **arguments: Any) -> None:
        super().__init__(dataset, batch_size=dataset.batch_size, **arguments)
        self.epoch = epoch

    def __len__(self) -> int:
        return self.dataset.batches

    def __iter__(self) -> Iterator[Sample]:  # type: ignore[override]  # Lightning needs an iterator and nothing more
        self.given, self.start = self.start, 0
        self.dataset.begin(epoch=self.epoch(), batch=self.given)
        for batch in super().__iter__():
            self.given += 1
            yield batch


class StreamingDataModule(RestorationDataModule):
    """As :class:`RestorationDataModule`, from what ``moceir prepare pack --format webdataset`` wrote.

    ``root`` may be a URL of any kind that fsspec opens; held-out pictures are read once and kept in memory.
    """

    def prepare_data(self) -> None:
        """There is nothing to do: shards hold only what could be read when they were written."""

    def setup(self, stage: str) -> None:
        """Read the index and the held-out pictures.

        Raises:
            ValueError: when there is no index, datasets are missing, or they cannot fill a batch.
        """
        need_webdataset()
        root = str(self.root)
        index = read_index(root)
        missing = [name for name in self.sources if name not in index]
        if missing and (not self.allow_missing or len(missing) == len(self.sources)):
            raise ValueError(
                f"{root}: the index has no {', '.join(missing)}; write their shards too, name the datasets you want "
                "(data.sets), or leave out what is missing (data.allow_missing=true)"
            )
        self.streamed = [
            StreamedSet(name, source.task, source.repeat, index[name]["train"])
            for name, source in self.sources.items()
            if name in index
        ]
        held_out = [
            PairSet(one.name, self._held_out(root, index[one.name]["validation"]), one.task) for one in self.streamed
        ]
        self.val_set = WholePictures(sets=held_out, degradations=self.validation_degradations, seed=self.seed)
        found = {name: sum(shard.samples for part in parts.values() for shard in part) for name, parts in index.items()}
        self._announce(missing, tabulate(self.streamed, held_out, found, self.sources))

    def train_dataloader(self) -> StreamingLoader:  # type: ignore[override]
        rank, world_size = self._rank()
        crops = StreamedCrops(
            root=str(self.root),
            sets=self.streamed,
            crop=self.crop,
            degradation=self.degradation,
            batch_size=self.batch_size,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )
        if not crops.batches:
            raise ValueError(
                f"data.batch_size={self.batch_size} on {world_size} processes is more than an epoch's samples"
            )
        loader = StreamingLoader(
            crops,
            epoch=lambda: self.trainer.current_epoch if self.trainer else 0,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
        return self._resumed(loader)

    def _held_out(self, root: str, shards: Sequence[Shard]) -> list:
        wanted = set(spread(range(sum(shard.samples for shard in shards)), self.validation_images))
        pairs, position = [], 0
        for shard in shards:
            url = f"{root.rstrip('/')}/{shard.file}"
            for number, (_, pair) in enumerate(read_shard(url, start=0, end=shard.samples), start=position):
                if number in wanted:
                    pairs.append(pair)
            position += shard.samples
        return pairs
