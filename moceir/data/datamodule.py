"""From a folder of photographs to batches."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Subset

from moceir.data.datasets import DegradedImages, EpochSampler, Sample, TrainingCrops
from moceir.data.degradations import Degradation
from moceir.data.images import find_images
from moceir.data.samples import sample_photographs

log = logging.getLogger(__name__)


class RestorationDataModule(LightningDataModule):
    """Clean photographs, degraded as they are read.

    Every ``len // validation_images``-th file, in the order of their names, is held out for validation, where each
    of ``validation_degradations`` is applied to the whole picture with noise that never changes.

    Args:
        root: folder of photographs, searched recursively; None or empty for the few that scikit-image ships.
        repeat: crops of each picture in an epoch.
        crop: side of the square crops in pixels.
        batch_size: crops in a batch, on each device.
        degradation: for training.
        validation_degradations: task name -> degradation.
        validation_images: how many pictures to hold out; of scikit-image's, one.
        num_workers: processes that load data beside each training process.
        seed: decides crops, flips, noise and order.
    """

    def __init__(
        self,
        *,
        root: str | None,
        repeat: int,
        crop: int,
        batch_size: int,
        degradation: Degradation,
        validation_degradations: Mapping[str, Degradation],
        validation_images: int,
        num_workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.root = root
        self.repeat = repeat
        self.crop = crop
        self.batch_size = batch_size
        self.degradation = degradation
        self.validation_degradations = dict(validation_degradations)
        self.validation_images = validation_images
        self.num_workers = num_workers
        self.seed = seed

    def setup(self, stage: str) -> None:
        """Find the pictures and split them.

        Raises:
            ValueError: when the folder is missing, or too empty to hold out validation pictures.
        """
        files = self._find()
        count = self.validation_images if self.root else 1
        if not 1 <= count < len(files):
            raise ValueError(
                f"data.validation_images={count} of {len(files)} pictures: hold out at least one and leave at least "
                "one to train on"
            )
        held_out = files[:: len(files) // count][:count]
        training = [path for path in files if path not in set(held_out)]
        self.train_set = TrainingCrops(
            files=training, repeat=self.repeat, crop=self.crop, degradation=self.degradation, seed=self.seed
        )
        self.val_set = DegradedImages(files=held_out, degradations=self.validation_degradations, seed=self.seed)
        log.info(
            "training on %d crops an epoch from %d pictures; validating on %d pictures",
            len(self.train_set), len(training), len(held_out),
        )  # fmt: skip

    def _find(self) -> list[Path]:
        if not self.root:
            photographs = sample_photographs()
            log.warning(
                "NO DATA FOLDER GIVEN: training on %d photographs that scikit-image ships. That shows that "
                "training runs; it does not give useful weights. Set data.root=FOLDER or the environment variable "
                "MOCEIR_DATA.",
                len(photographs),
            )
            return photographs
        folder = Path(self.root).expanduser()
        if not folder.is_dir():
            raise ValueError(f"data.root={self.root}: no such folder; give one that holds photographs")
        files = find_images(folder)
        if not files:
            raise ValueError(f"data.root={self.root}: no PNG, JPEG, WebP, BMP or TIFF in it or below it")
        return files

    def train_dataloader(self) -> DataLoader[Sample]:
        rank, world_size = self._rank()
        sampler = EpochSampler(length=len(self.train_set), seed=self.seed, rank=rank, world_size=world_size)
        return DataLoader(
            self.train_set,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            drop_last=len(sampler) >= self.batch_size,
        )

    def val_dataloader(self) -> DataLoader[Sample]:
        rank, world_size = self._rank()
        mine = Subset(self.val_set, range(rank, len(self.val_set), world_size))
        return DataLoader(mine, batch_size=1)

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
