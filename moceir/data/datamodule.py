"""Builds batches from a folder of datasets."""

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
    """Number of batches that the next iteration skips; later iterations skip none."""
    given: int
    """Number of the epoch's batches that have been yielded or skipped."""

    def __len__(self) -> int: ...


class RestorationDataModule(LightningDataModule):
    """Merges datasets of clean pictures and of degraded pairs.

    Args:
        root: the folder that holds the datasets, as distributed, tiled or packed. With None, the few photographs that
            scikit-image ships replace ``sets``.
        sets: name -> dataset.
        allow_missing: skip datasets that are missing.
        crop: side of the square crops in pixels.
        batch_size: crops per step, over all training processes.
        degradation: degradation of clean pictures in training.
        validation_degradations: task name -> degradation of the clean pictures that are held out.
        validation_pictures: maximum number of held-out pictures that are used from each dataset.
        num_workers: number of data-loading processes for each training process.
        seed: seed of crops, flips, noise and order.
        detail: probability of choosing a crop by its detail.
        grey: probability of making a crop grey.

    Raises:
        ValueError: when an entry of ``sets`` is no dataset.
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
        validation_pictures: int,
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
        for name, source in self.sources.items():
            if not isinstance(source, Source):
                raise ValueError(f"data.sets.{name}={source}: choose its dataset (data=), too, or leave the set out")
        self.allow_missing = allow_missing
        self.crop = crop
        self.batch_size = batch_size
        self.degradation = degradation
        self.validation_degradations = dict(validation_degradations)
        self.validation_pictures = validation_pictures
        self.num_workers = num_workers
        self.seed = seed
        self.detail = detail
        self.grey = grey
        self._start = 0
        self._loader: BeginsAnywhere
        if not root:
            log.warning(
                "NO DATA FOLDER GIVEN: training on the few photographs that scikit-image ships. This shows that "
                "training runs, but does not give useful weights. Set data.root=FOLDER or the environment variable "
                "MOCEIR_DATA."
            )

    def prepare_data(self) -> None:
        """Check every file, once on each machine, before anything else starts.

        Raises:
            ValueError: when datasets are missing, or files are broken.
        """
        check_sets(self._find(), crop=self.crop, workers=2 * (os.cpu_count() or 1))

    def setup(self, stage: str) -> None:
        """Find the pictures and split them.

        Raises:
            ValueError: when datasets are missing, or too small for their held-out pictures.
        """
        listings = self._find()
        mixture = mix(listings, self.sources, validation_pictures=self.validation_pictures)
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
        """Names of the validation tasks, after :meth:`setup`."""
        return self.val_set.tasks

    @property
    def validation_sets(self) -> list[str]:
        """Names of the datasets that have held-out pictures, after :meth:`setup`."""
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
        """Return the position within the epoch, which Lightning stores in the checkpoint."""
        # Lightning can also store a loader's own state, but 2.6.6 fails to restore it when a schedule requests the
        # number of steps.
        return {"batches": self._loader.given}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the last batch that was trained on when the checkpoint was written."""
        self._start = state_dict["batches"]
        # Lightning warns because it finds no state in the loader; this module holds that state.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")

    def val_dataloader(self) -> DataLoader[Sample]:
        rank, world_size = self._rank()
        if 0 < len(self.val_set) < world_size:  # others would wait for the scores of a process without pictures
            raise ValueError(
                f"{len(self.val_set)} validation pictures for {world_size} processes: hold out more "
                "(data.sets.NAME.validation, data.validation_pictures)"
            )
        mine = Subset(self.val_set, range(rank, len(self.val_set), world_size))
        return DataLoader(mine, batch_size=1, collate_fn=collate)

    def _resumed(self, loader: Loader) -> Loader:
        loader.start = self._start % len(loader)  # the end of an epoch is the start of the next
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
        """Return the number of crops per step in this process."""
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
    """A loader with an :class:`EpochSampler` that can begin within an epoch, see :class:`BeginsAnywhere`."""

    sampler: EpochSampler
    start = 0
    given = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # Lightning needs an iterator and nothing more
        # This is a generator, so that workers receive no work before Lightning has set the sampler's epoch.
        self.given, self.start = self.start, 0
        self.sampler.skip = self.given * (self.batch_size or 1)
        for batch in super().__iter__():
            self.given += 1
            yield batch
