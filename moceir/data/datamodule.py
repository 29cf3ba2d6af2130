"""From a folder of datasets to batches."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Subset

from moceir.data.datasets import Batch, EpochSampler, Sample, TrainingCrops, WholePictures, collate
from moceir.data.degradations import Degradation
from moceir.data.mixture import check_sets, find_sets, mix, tabulate
from moceir.data.samples import sample_photographs
from moceir.data.sources import Listing, SamplePhotographs, Source
from moceir.extras import remedy

try:
    from lightning import LightningDataModule
except ImportError as error:
    raise ImportError(remedy("moceir.data.datamodule", "lightning", "train")) from error

log = logging.getLogger(__name__)

Loader = TypeVar("Loader", bound="BeginsAnywhere")


class BeginsAnywhere(Protocol):
    """A loader that can begin within an epoch."""

    start: int
    """How many batches to leave out, the next time only."""
    given: int
    """How many of the epoch have been given out or left out."""

    def __len__(self) -> int: ...


class RestorationDataModule(LightningDataModule):
    """Datasets of clean pictures and of degraded pairs, merged.

    Args:
        root: the folder that holds them, as distributed, tiled or packed; None for the few photographs that
            scikit-image ships, whatever ``sets`` says.
        sets: name -> dataset.
        allow_missing: leave out datasets that are not there.
        crop: side of the square crops in pixels.
        batch_size: crops of a step; the processes that train together share them.
        degradation: of clean pictures, for training.
        validation_degradations: task name -> degradation, of clean pictures that are held out.
        validation_images: how many held-out pictures of each dataset are used, at most.
        num_workers: processes that load data beside each training process.
        seed: decides crops, flips, noise and order.
        detail: probability of choosing a crop by its detail.
        grey: probability of making a crop grey.
    """

    def __init__(
        self,
        *,
        root: str | None,
        sets: Mapping[str, Source],
        allow_missing: bool,
        crop: int,
        batch_size: int,
        degradation: Degradation,
        validation_degradations: Mapping[str, Degradation],
        validation_images: int,
        num_workers: int,
        seed: int,
        detail: float = 0,
        grey: float = 0,
    ) -> None:
        super().__init__()
        self.root = root
        self.sources = (
            dict(sets) if root else {"scikit-image": SamplePhotographs(folders=["."], repeat=4, validation=1)}
        )
        self.allow_missing = allow_missing
        self.crop = crop
        self.batch_size = batch_size
        self.degradation = degradation
        self.validation_degradations = dict(validation_degradations)
        self.validation_images = validation_images
        self.num_workers = num_workers
        self.seed = seed
        self.detail = detail
        self.grey = grey
        self._start = 0
        self._loader: BeginsAnywhere
        if not root:
            log.warning(
                "NO DATA FOLDER GIVEN: training on the few photographs that scikit-image ships. That shows that "
                "training runs; it does not give useful weights. Set data.root=FOLDER or the environment variable "
                "MOCEIR_DATA."
            )

    def prepare_data(self) -> None:
        """Look at every file, once on each machine, before anything else starts.

        Raises:
            ValueError: when datasets are missing, or files broken.
        """
        check_sets(self._find(), crop=self.crop, workers=2 * (os.cpu_count() or 1))

    def setup(self, stage: str) -> None:
        """Find the pictures and split them.

        Raises:
            ValueError: when datasets are missing, or too small to hold out what they should.
        """
        listings = self._find()
        mixture = mix(listings, self.sources, validation_images=self.validation_images)
        self.train_set = TrainingCrops(
            sets=mixture.training,
            crop=self.crop,
            degradation=self.degradation,
            seed=self.seed,
            detail=self.detail,
            grey=self.grey,
        )
        self.val_set = WholePictures(sets=mixture.validation, degradations=self.validation_degradations, seed=self.seed)
        found = {name: len(listing.pairs) for name, listing in listings.items()}
        left_out = [name for name in self.sources if name not in listings]
        self._announce(left_out, tabulate(mixture.training, mixture.validation, found, self.sources))

    @property
    def validation_tasks(self) -> list[str]:
        """What there is to restore in validation, after :meth:`setup`."""
        return self.val_set.tasks

    @property
    def validation_sets(self) -> list[str]:
        """Names of the datasets that pictures are held out of, after :meth:`setup`."""
        return self.val_set.names

    def train_dataloader(self) -> ResumableLoader:
        rank, world_size = self._rank()
        batch_size = self._share()
        sampler = EpochSampler(length=len(self.train_set), seed=self.seed, rank=rank, world_size=world_size)
        loader = ResumableLoader(
            self.train_set,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            drop_last=len(sampler) >= batch_size,
        )
        return self._resumed(loader)

    def state_dict(self) -> dict[str, Any]:
        """How far into the epoch a run is; Lightning keeps it in the checkpoint."""
        # Lightning would keep a loader's own state, too, but forgets to restore it where a schedule asks for the
        # number of steps (2.6.6).
        return {"batches": self._loader.given}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on behind the batch at which the checkpoint was written."""
        self._start = state_dict["batches"]
        # Lightning asks whether the loaders have a state, and ours is here.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")

    def val_dataloader(self) -> DataLoader[Sample]:
        rank, world_size = self._rank()
        if 0 < len(self.val_set) < world_size:  # a process without any would keep the others waiting for its scores
            raise ValueError(
                f"{len(self.val_set)} validation pictures for {world_size} processes: hold out more "
                "(data.sets.NAME.validation, data.validation_images)"
            )
        mine = Subset(self.val_set, range(rank, len(self.val_set), world_size))
        return DataLoader(mine, batch_size=1, collate_fn=collate)

    def _resumed(self, loader: Loader) -> Loader:
        loader.start = self._start % len(loader)  # a whole epoch given out is the start of the next
        self._loader = loader
        return loader

    def _announce(self, left_out: list[str], table: str) -> None:
        if self._rank()[0] == 0:
            if left_out:
                log.warning("LEFT OUT, because missing: %s (data.allow_missing=true)", ", ".join(left_out))
            log.info("the mixture:\n%s", table)

    def _find(self) -> dict[str, Listing]:
        return find_sets(self.root or sample_photographs()[0].parent, self.sources, allow_missing=self.allow_missing)

    def _share(self) -> int:
        """How many crops of a step are this process's."""
        processes = self._rank()[1]
        if self.batch_size % processes:
            raise ValueError(
                f"data.batch_size={self.batch_size} cannot be shared equally by {processes} processes: choose a "
                "multiple, or set trainer.devices"
            )
        return self.batch_size // processes

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


class ResumableLoader(DataLoader[Sample]):
    """A loader of an :class:`EpochSampler` that can begin within an epoch.

    Attributes:
        start: how many batches to leave out, the next time only.
        given: how many of the epoch have been given out or left out.
    """

    sampler: EpochSampler
    start = 0
    given = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # Lightning needs an iterator and nothing more
        # A generator, so that workers are not fed before Lightning has told the sampler the epoch.
        self.given, self.start = self.start, 0
        self.sampler.skip = self.given * (self.batch_size or 1)
        for batch in super().__iter__():
            self.given += 1
            yield batch
