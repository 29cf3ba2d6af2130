"""Samples for training and validation: a clean picture or crop, and its degraded version."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate

from moceir.data.degradations import Degradation, checked_probability
from moceir.data.pairs import Pair
from moceir.data.pictures import Window
from moceir.pictures.picture import PictureError

_TRIES = 4  # number of candidate crops, of which the one with the most detail is used


class Stream(IntEnum):
    """The purpose of a random generator. As the last number of its seed, it separates otherwise equal seeds."""

    CROP = 1
    VALIDATION = 2
    ORDER = 3
    ROUTING = 4
    SHARDS = 5


class Sample(NamedTuple):
    """A degraded picture and its clean version."""

    degraded: Tensor
    """(3, H, W) float32 RGB; noise may exceed the range [0, 1]."""
    clean: Tensor
    """(3, H, W) float32 RGB in [0, 1]."""
    task: str
    """Name of the degradation."""
    name: str
    """The dataset and the picture's path in it, without suffix."""


class Batch(NamedTuple):
    """Samples of one size."""

    degraded: Tensor
    """(B, 3, H, W), see :class:`Sample`."""
    clean: Tensor
    """(B, 3, H, W), see :class:`Sample`."""
    tasks: tuple[str, ...]
    """The task of each sample."""
    names: tuple[str, ...]
    """The name of each sample."""


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch. In a loader's worker process, the tensors lie in shared memory."""
    degraded, clean = (default_collate([sample[place] for sample in samples]) for place in (0, 1))
    return Batch(degraded, clean, tuple(one.task for one in samples), tuple(one.name for one in samples))


class PairSet(NamedTuple):
    """Pictures of one dataset."""

    name: str
    pairs: Sequence[Pair]
    task: str
    """The task of pairs that have a degraded picture."""
    repeat: int = 1
    """Number of times that each picture appears in an epoch."""

    def samples(self) -> int:
        """Return the number of samples in an epoch."""
        return len(self.pairs) * self.repeat


def to_chw_floats(picture: np.ndarray) -> np.ndarray:
    """Convert uint8 (H, W, 3) to float32 (3, H, W) in [0, 1]."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32) / 255


def draw_window(picture: np.ndarray, *, crop: int, detail: float, rng: np.random.Generator) -> Window:
    """Draw a random square of uint8 (H, W, 3).

    With probability ``detail``, draw four squares and return the one with the steepest gradients.
    """
    tries = _TRIES if detail and rng.random() < detail else 1
    places = [[int(rng.integers(side - crop + 1)) for side in picture.shape[:2]] for _ in range(tries)]
    windows = [Window(top, left, crop, crop) for top, left in places]
    return windows[0] if tries == 1 else max(windows, key=lambda window: _steepness(window.of(picture)))


def _steepness(picture: np.ndarray) -> float:
    """Return the mean absolute difference between neighbours in the green channel."""
    green = picture[..., 1].astype(np.int16)
    return float(sum(np.abs(np.diff(green, axis=axis)).mean() for axis in (0, 1)))


def training_sample(
    pair: Pair,
    *,
    task: str,
    name: str,
    crop: int,
    degradation: Degradation,
    rng: np.random.Generator,
    detail: float = 0,
    grey: float = 0,
) -> Sample:
    """Draw a random square crop, flip it at random, and degrade it if the pair has no degraded picture.

    Args:
        pair: the pictures to crop; both are cropped to the same window.
        task: the task of a degraded pair.
        name: name of the sample.
        crop: side in pixels.
        degradation: degradation of a clean picture. Its input includes ``degradation.margin`` pixels around the crop,
            as far as the picture extends.
        rng: source of the randomness.
        detail: probability of choosing the crop by its detail, see :func:`draw_window`.
        grey: probability of making both pictures grey, by replacing all channels with one of them.

    Raises:
        PictureError: when a picture cannot be read, is smaller than the crop, or differs in size from its partner.
    """
    clean, degraded = pair.open()
    height, width = clean.shape[:2]
    if min(height, width) < crop:
        raise PictureError(
            f"{pair.clean}: {width}×{height} is smaller than the crop of {crop}; remove the picture or lower the crop"
        )
    window = draw_window(clean, crop=crop, detail=detail, rng=rng)
    flips = tuple(axis for axis in (0, 1) if rng.random() < 0.5)
    channel = int(rng.integers(3)) if grey and rng.random() < grey else None
    if channel is not None:
        clean = np.broadcast_to(clean[..., channel, None], clean.shape)
        degraded = None if degraded is None else np.broadcast_to(degraded[..., channel, None], degraded.shape)
    if degraded is not None:
        one, two = (
            torch.from_numpy(to_chw_floats(np.flip(window.of(picture), flips))) for picture in (degraded, clean)
        )
        return Sample(one, two, task, name)

    margin = degradation.margin
    outer_top, outer_left = max(0, window.top - margin), max(0, window.left - margin)
    outer = clean[outer_top : window.top + crop + margin, outer_left : window.left + crop + margin]
    seen = to_chw_floats(outer)
    made, task = degradation(seen, rng)
    if channel is not None:  # noise is coloured
        made = np.broadcast_to(made[channel], made.shape)
    window = Window(window.top - outer_top, window.left - outer_left, crop, crop)
    cut = (np.flip(window.of(picture.transpose(1, 2, 0)), flips).transpose(2, 0, 1) for picture in (made, seen))
    one, two = (torch.from_numpy(np.ascontiguousarray(picture)) for picture in cut)
    return Sample(one, two, task, name)


class TrainingCrops(Dataset[Sample]):
    """Random crops of several datasets. Item (e, i) depends only on the seed, the epoch e and the index i.

    Each item decodes its pictures again. Use packed data where speed matters.

    Args:
        sets: the datasets to draw from, in this order.
        crop: side of the square crops, in pixels.
        degradation: degradation of crops of clean pictures.
        seed: seed of every crop, flip and noise.
        detail: probability of choosing a crop by its detail, see :func:`draw_window`.
        grey: probability of making a crop grey.
    """

    def __init__(
        self,
        *,
        sets: Sequence[PairSet],
        crop: int,
        degradation: Degradation,
        seed: int,
        detail: float = 0,
        grey: float = 0,
    ) -> None:
        self.sets = list(sets)
        self.crop = crop
        self.degradation = degradation
        self.seed = seed
        self.detail = checked_probability("detail", detail)
        self.grey = checked_probability("grey", grey)
        self._ends = list(accumulate(one.samples() for one in self.sets))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return the sample with the key (epoch, index).

        Raises:
            PictureError: when :func:`training_sample` raises it.
        """
        epoch, index = key
        which = bisect(self._ends, index)
        source = self.sets[which]
        pair = source.pairs[(index - self._ends[which]) % len(source.pairs)]
        return training_sample(
            pair,
            task=source.task,
            name=f"{source.name}/{pair.name}",
            crop=self.crop,
            degradation=self.degradation,
            rng=np.random.default_rng((self.seed, epoch, index, Stream.CROP)),
            detail=self.detail,
            grey=self.grey,
        )


class WholePictures(Dataset[Sample]):
    """Whole pictures for validation and evaluation. Pairs stay unchanged; clean pictures get each degradation.

    Noise depends only on the seed and the picture's number in its dataset.

    Args:
        sets: the datasets to use, in this order.
        degradations: task name -> degradation of clean pictures.
        seed: seed of the noise.
    """

    def __init__(self, *, sets: Sequence[PairSet], degradations: Mapping[str, Degradation], seed: int) -> None:
        self.degradations = dict(degradations)
        self.seed = seed
        self._items: list[tuple[PairSet, int, str]] = []
        for one in sets:
            for number, pair in enumerate(one.pairs):
                tasks = [one.task] if pair.degraded else list(self.degradations)
                self._items += [(one, number, task) for task in tasks]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the order of their first appearance."""
        return list(dict.fromkeys(task for *_, task in self._items))

    @property
    def names(self) -> list[str]:
        """Names of the datasets, in the order of their first appearance."""
        return list(dict.fromkeys(source.name for source, *_ in self._items))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample with this index.

        Raises:
            PictureError: when a picture cannot be read, or differs in size from its partner.
        """
        source, number, task = self._items[index]
        pair = source.pairs[number]
        clean, degraded = pair.open()
        reference = to_chw_floats(clean)
        if degraded is None:
            rng = np.random.default_rng((self.seed, number, Stream.VALIDATION))
            made, _ = self.degradations[task](reference, rng)
        else:
            made = to_chw_floats(degraded)
        return Sample(torch.from_numpy(made), torch.from_numpy(reference), task, f"{source.name}/{pair.name}")


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields keys (epoch, index) in a new order each epoch, distributed evenly over the ranks of a distributed run.

    Lightning sets the epoch through :meth:`set_epoch`. The last samples of the order, which would give some ranks more
    than others, are dropped from that epoch.

    Attributes:
        skip: number of keys to skip at the start of the next iteration; a resumed run has already trained on them.
    """

    def __init__(self, *, length: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.length = length
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch, Stream.ORDER)).permutation(self.length)
        mine = order[: len(self) * self.world_size][self.rank :: self.world_size]
        start, self.skip = self.skip, 0
        return ((self.epoch, int(index)) for index in mine[start:])
