"""Restores files with Lightning, on any number of processes and machines; one process restores each picture."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.utils.data import DataLoader, IterableDataset

from moceir.cores import available_cores
from moceir.inference.folder import Job, Journal, fingerprint
from moceir.inference.restore import Restorer
from moceir.inference.video import restore_video
from moceir.networks.unet import UNet
from moceir.pictures.files import remove_leftovers
from moceir.pictures.formats import MAX_PIXELS
from moceir.pictures.picture import PictureError
from moceir.pictures.video import is_video

log = logging.getLogger(__name__)

#: Seconds between two log lines about the progress.
_OFTEN = 60.0


class Distributor(IterableDataset[int]):
    """Distributes the numbers below a count over processes that iterate concurrently: a free process takes the next.

    So no process waits for a slow machine or a large picture, and no picture is restored twice to make shares equal.

    Args:
        count: the count.
        store: a store that the processes share; None for a single process.
    """

    def __init__(self, count: int, store: Store | None = None) -> None:
        self.count, self.store = count, store

    def __len__(self) -> int:
        """Return the maximum for one process. Without a length, Lightning would fetch one number in advance."""
        return self.count

    def __iter__(self) -> Iterator[int]:
        if self.store is None:
            yield from range(self.count)
            return
        while (number := self.store.add("taken", 1) - 1) < self.count:
            yield number


class RestoreFiles(LightningModule):
    """Restores files with ``Trainer.predict``. Each process writes its own journal, and reads the journals of all.

    Args:
        network: the network that restores; each process has its own copy.
        jobs: the files to restore; they must be the same in every process, in the same order.
        quality, max_pixels: see :meth:`moceir.Restorer.restore_bytes`.
        threads: number of threads per process; None for an equal share of this machine's cores.
        restorer: the options of :class:`moceir.Restorer`.

    Attributes:
        failed: number of pictures that this process could not restore; after prediction, the total of all processes.
    """

    def __init__(
        self,
        *,
        network: UNet,
        jobs: Sequence[Job],
        quality: int | None = None,
        max_pixels: int | None = MAX_PIXELS,
        threads: int | None = None,
        **restorer: Any,
    ) -> None:
        super().__init__()
        self.network, self.jobs, self.threads = network, jobs, threads
        self.quality, self.max_pixels, self.options = quality, max_pixels, restorer
        self.failed = 0
        self.journal: Journal | None = None
        self._said = time.monotonic()

    def setup(self, stage: str) -> None:
        threads = self.threads or max(1, available_cores() // self.trainer.num_devices)
        device = self.trainer.strategy.root_device
        self.restorer = Restorer(self.network, device=str(device), threads=threads, **self.options)
        formats = sorted({job.target.suffix for job in self.jobs})
        self.settings = fingerprint(self.network, device.type, self.quality, formats, sorted(self.options.items()))
        if self.trainer.is_global_zero:  # before any of them writes
            for folder in {job.target.resolve().parent for job in self.jobs}:
                remove_leftovers(folder)
        self.distributor = Distributor(len(self.jobs), _shared(self.trainer, self.jobs, self.settings))
        self.journal = Journal(self.jobs, self.settings, part=f"process-{self.global_rank}")

    def predict_dataloader(self) -> DataLoader[int]:
        return DataLoader(self.distributor, batch_size=None)

    def predict_step(self, number: int, *_: object) -> None:
        job, journal = self.jobs[number], cast(Journal, self.journal)
        if self.trainer.is_global_zero and time.monotonic() - self._said > _OFTEN:
            self._said = time.monotonic()
            log.info("%d of %d pictures are done or in progress", number + 1, len(self.jobs))
        if journal.done(job):
            return
        try:
            self._restore(job, partial(journal.note, job))
        except Exception as error:  # even a bug must not prevent the other pictures
            fault = PictureError(f"{job.source}: {type(error).__name__}: {error}")
            failure = error if isinstance(error, PictureError) else fault
            self.failed += 1
            journal.fail(job, failure)
            log.error("%s", failure)

    def _restore(self, job: Job, note: Callable[..., None]) -> None:
        if is_video(job.source):
            restore_video(self.restorer, job.source, job.target, settings=self.settings, before_replacing=note)
            return
        self.restorer.restore_file(
            job.source, job.target, quality=self.quality, max_pixels=self.max_pixels, before_replacing=note
        )

    def on_predict_end(self) -> None:
        # This also keeps the process that owns the store alive until no other process needs it.
        failed = torch.tensor(float(self.failed), device=self.trainer.strategy.root_device)
        self.failed = int(self.trainer.strategy.reduce(failed, reduce_op="sum"))

    def teardown(self, stage: str) -> None:
        if self.journal is not None:
            self.journal.close()


def _shared(trainer: Trainer, jobs: Sequence[Job], settings: str) -> Store | None:
    """Connect to the store that distributes jobs over a run's processes; the first process owns it.

    The result is None for a single process.

    Raises:
        ValueError: when the processes do not see the same files.
    """
    if trainer.world_size == 1:
        return None
    address = trainer.strategy.cluster_environment.main_address  # type: ignore[attr-defined]
    own = TCPStore(address, 0, is_master=True, wait_for_workers=False) if trainer.is_global_zero else None
    digest = hashlib.sha256(repr((settings, jobs)).encode()).hexdigest()
    port, theirs = trainer.strategy.broadcast((0 if own is None else own.port, digest))
    if digest != theirs:
        raise ValueError(
            "the processes of this run see different files or settings; give all of them one list (inputs=[@FILE]) "
            "and the same options"
        )
    return own or TCPStore(address, port, is_master=False, wait_for_workers=False)
