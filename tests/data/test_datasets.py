from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from moceir.data.datasets import DegradedImages, EpochSampler, TrainingCrops
from moceir.data.degradations import GaussianNoise, OneOf, PoissonNoise
from moceir.data.images import ImageError, write_image


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    for index in range(3):
        write_image(tmp_path / f"{index}.png", rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    return sorted(tmp_path.iterdir())


def crops(files: list[Path], *, crop: int = 16, seed: int = 0) -> TrainingCrops:
    return TrainingCrops(files=files, repeat=4, crop=crop, degradation=GaussianNoise(sigmas=[15, 50]), seed=seed)


def test_a_sample_depends_on_seed_epoch_and_index_alone(files: list[Path]) -> None:
    one, two = crops(files), crops(files)
    two[0, 0]  # what was read before makes no difference
    for key in [(0, 5), (3, 5), (0, 6)]:
        assert torch.equal(one[key].degraded, two[key].degraded)
        assert torch.equal(one[key].clean, two[key].clean)
    assert not torch.equal(one[0, 5].degraded, one[1, 5].degraded)
    assert not torch.equal(one[0, 2].clean, one[0, 5].clean), "another repeat of a picture is another crop"
    assert not torch.equal(one[0, 5].degraded, crops(files, seed=1)[0, 5].degraded)


def test_crops_and_their_clean_partners_are_aligned(files: list[Path]) -> None:
    sample = crops(files)[0, 1]
    assert sample.degraded.shape == sample.clean.shape == (3, 16, 16)
    assert sample.name == "1.png"
    assert sample.task == "gaussian"
    assert sample.clean.min() >= 0
    assert sample.clean.max() <= 1
    assert 10 / 255 < (sample.degraded - sample.clean).std() < 60 / 255


def test_small_pictures_are_named(files: list[Path]) -> None:
    with pytest.raises(ImageError, match=r"0\.png: 50×40 is smaller than the crop of 64"):
        crops(files, crop=64)[0, 0]


def test_noise_has_the_stated_strength() -> None:
    clean = np.full((3, 200, 200), 0.25, np.float32)
    rng = np.random.default_rng(0)
    gaussian, task = GaussianNoise(sigmas=[25])(clean, rng)
    assert task == "gaussian"
    assert np.isclose((gaussian - clean).std(), 25 / 255, rtol=0.01)
    poisson, task = PoissonNoise(scale=100)(clean, rng)
    assert task == "poisson"
    assert poisson.dtype == gaussian.dtype == np.float32
    assert np.isclose((poisson - clean).std(), np.sqrt(0.25 / 100), rtol=0.01)
    assert np.isclose(poisson.mean(), 0.25, rtol=0.01)


def test_one_of_draws_by_weight() -> None:
    choice = OneOf(choices=[GaussianNoise(sigmas=[1]), PoissonNoise(scale=10)], weights=[3, 1])
    rng = np.random.default_rng(0)
    tasks = [choice(np.zeros((3, 1, 1), np.float32), rng)[1] for _ in range(400)]
    assert 250 < tasks.count("gaussian") < 350


def test_validation_never_changes(files: list[Path]) -> None:
    noises = {"weak": GaussianNoise(sigmas=[15]), "strong": GaussianNoise(sigmas=[50])}
    one, two = (DegradedImages(files=files, degradations=noises, seed=0) for _ in range(2))
    assert len(one) == 6
    assert [one[i].task for i in range(3)] == ["weak", "strong", "weak"]
    assert torch.equal(one[4].degraded, two[4].degraded)
    assert one[4].degraded.shape == (3, 40, 50)


def test_sampler_deals_each_index_to_one_rank() -> None:
    ranks = [EpochSampler(length=11, seed=0, rank=rank, world_size=2) for rank in range(2)]
    first = [list(rank) for rank in ranks]
    assert [len(keys) for keys in first] == [len(rank) for rank in ranks] == [5, 5]
    dealt = [index for keys in first for _, index in keys]
    assert len(set(dealt)) == 10
    for rank in ranks:
        rank.set_epoch(1)
    assert list(ranks[0]) != first[0]
    assert all(epoch == 1 for epoch, _ in ranks[0])
