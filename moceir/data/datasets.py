"""Samples for training and validation: a crop of a clean picture and its degraded self."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from moceir.data.degradations import Degradation
from moceir.data.images import ImageError, read_image


class Stream(IntEnum):
    """What a random generator is for, as the last number of its seed: equal numbers before it give other streams."""

    CROP = 1
    VALIDATION = 2
    ORDER = 3
    ROUTING = 4


class Sample(NamedTuple):
    """One training example, or a collated batch of them."""

    degraded: Tensor
    """(3, H, W) float32 RGB; clean values lie in [0, 1], noise may leave it."""
    clean: Tensor
    """(3, H, W) float32 RGB in [0, 1]."""
    task: str
    """Which degradation."""
    name: str
    """The file's name."""


def to_tensor(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> float32 (3, H, W) in [0, 1]."""
    return np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32) / 255


class TrainingCrops(Dataset[Sample]):
    """Random crops, randomly flipped and degraded. Item (e, i) depends on the seed, e and i alone.

    Decoded pictures stay in memory (0.46 MB for one of BSD400).

    Args:
        files: clean pictures.
        repeat: how many crops of each picture make an epoch.
        crop: side of the square crops, in pixels.
        degradation: what to do to a crop.
        seed: decides every crop, flip and noise.
    """

    def __init__(self, *, files: Sequence[Path], repeat: int, crop: int, degradation: Degradation, seed: int) -> None:
        self.files = list(files)
        self.repeat = repeat
        self.crop = crop
        self.degradation = degradation
        self.seed = seed
        self._decoded: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.files) * self.repeat

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The sample of (epoch, index).

        Raises:
            ImageError: when the picture cannot be read, or is smaller than the crop.
        """
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index, Stream.CROP))
        which = index % len(self.files)
        image = self._read(which)
        top, left = (int(rng.integers(side - self.crop + 1)) for side in image.shape[:2])
        window = image[top : top + self.crop, left : left + self.crop]
        for axis in (0, 1):
            if rng.random() < 0.5:
                window = np.flip(window, axis)
        clean = to_tensor(window)
        degraded, task = self.degradation(clean, rng)
        return Sample(torch.from_numpy(degraded), torch.from_numpy(clean), task, self.files[which].name)

    def _read(self, which: int) -> np.ndarray:
        if which not in self._decoded:
            path = self.files[which]
            image = read_image(path)
            if min(image.shape[:2]) < self.crop:
                height, width = image.shape[:2]
                raise ImageError(
                    f"{path}: {width}×{height} is smaller than the crop of {self.crop}; "
                    "remove the picture or lower the crop"
                )
            self._decoded[which] = image
        return self._decoded[which]


class DegradedImages(Dataset[Sample]):
    """Whole pictures, each degraded in each of the given ways, with noise that depends on the seed and the picture."""

    def __init__(self, *, files: Sequence[Path], degradations: dict[str, Degradation], seed: int) -> None:
        self.files = list(files)
        self.degradations = dict(degradations)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.files) * len(self.degradations)

    def __getitem__(self, index: int) -> Sample:
        which, how = divmod(index, len(self.degradations))
        task, degradation = list(self.degradations.items())[how]
        clean = to_tensor(read_image(self.files[which]))
        degraded, _ = degradation(clean, np.random.default_rng((self.seed, which, Stream.VALIDATION)))
        return Sample(torch.from_numpy(degraded), torch.from_numpy(clean), task, self.files[which].name)


class EpochSampler(Sampler[tuple[int, int]]):
    """Keys (epoch, index) in a new order each epoch, dealt out evenly to the ranks of a distributed run.

    Lightning tells it the epoch through :meth:`set_epoch`. What does not divide by the ranks is left for another
    epoch's order.
    """

    def __init__(self, *, length: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.length = length
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch, Stream.ORDER)).permutation(self.length)
        mine = order[: len(self) * self.world_size][self.rank :: self.world_size]
        return ((self.epoch, int(index)) for index in mine)
