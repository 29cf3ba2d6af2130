from __future__ import annotations

import numpy as np
import pytest
import torch

from moceir.data.datasets import EpochSampler, PairSet, TrainingCrops, WholePictures
from moceir.data.degradations import Chain, GaussianNoise
from moceir.data.pairs import Pair
from moceir.data.pictures import ArrayPicture, Window
from moceir.pictures.picture import PictureError


def picture(seed: int, height: int = 40, width: int = 50) -> ArrayPicture:
    return ArrayPicture(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


CLEAN = PairSet("clean", [Pair(picture(i), None, f"{i}", f"{i}") for i in range(3)], "synthetic", repeat=4)
# The degraded picture is the negative of the clean one, so tests can check that both change in the same way.
NEGATIVES = [Pair(picture(i), ArrayPicture(255 - picture(i).pixels), f"s/{i}", "s") for i in range(2)]
PAIRED = PairSet("paired", NEGATIVES, "real", repeat=2)


def crops(*sets: PairSet, crop: int = 16, seed: int = 0) -> TrainingCrops:
    return TrainingCrops(sets=sets, crop=crop, degradation=GaussianNoise(sigmas=[15, 50]), seed=seed)


def test_a_sample_depends_on_seed_epoch_and_index_alone() -> None:
    one, two = crops(CLEAN, PAIRED), crops(CLEAN, PAIRED)
    two[0, 0]  # earlier reads must have no effect
    for key in [(0, 5), (3, 5), (0, 6), (0, 13)]:
        assert torch.equal(one[key].degraded, two[key].degraded)
        assert torch.equal(one[key].clean, two[key].clean)
    assert not torch.equal(one[0, 5].degraded, one[1, 5].degraded)
    assert not torch.equal(one[0, 2].clean, one[0, 5].clean), "each repeat of a picture gives a different crop"
    assert not torch.equal(one[0, 5].degraded, crops(CLEAN, PAIRED, seed=1)[0, 5].degraded)


def test_repeats_make_the_epoch() -> None:
    mixed = crops(CLEAN, PAIRED)
    assert len(mixed) == 3 * 4 + 2 * 2
    names = [mixed[0, index].name for index in range(len(mixed))]
    assert {name: names.count(name) for name in names} == {
        "clean/0": 4, "clean/1": 4, "clean/2": 4, "paired/s/0": 2, "paired/s/1": 2
    }  # fmt: skip
    tasks = [mixed[0, index].task for index in range(len(mixed))]
    assert tasks == ["gaussian"] * 12 + ["real"] * 4


def test_crops_and_their_clean_partners_are_aligned() -> None:
    mixed = crops(CLEAN, PAIRED)
    sample = mixed[0, 1]
    assert sample.degraded.shape == sample.clean.shape == (3, 16, 16)
    assert sample.clean.min() >= 0
    assert sample.clean.max() <= 1
    assert 10 / 255 < (sample.degraded - sample.clean).std() < 60 / 255
    for index in range(12, 16):
        sample = mixed[0, index]
        torch.testing.assert_close(sample.degraded, 1 - sample.clean)


def test_every_flip_and_every_position_occurs() -> None:
    """A 4×5 picture has 2 · 3 positions for a crop of 3×3, each in 4 orientations."""
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    one = PairSet("one", [Pair(ArrayPicture(picture), None, "a", "a")], "synthetic", repeat=400)
    data = crops(one, crop=3)
    seen = {tuple((data[0, index].clean[0] * 255).round().int().flatten().tolist()) for index in range(400)}
    expected = set()
    for top in range(2):
        for left in range(3):
            window = picture[top : top + 3, left : left + 3, 0]
            for flips in ((), (0,), (1,), (0, 1)):
                expected.add(tuple(np.flip(window, flips).astype(int).flatten().tolist()))
    assert len(expected) == 24
    assert seen == expected


class Shift:
    """Moves everything to the right, so that a crop needs the pixels to its left."""

    margin = 2

    def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        return np.roll(clean, 2, axis=2), "shift"


def test_degradations_see_around_the_crop() -> None:
    """Inside the picture, a degraded crop equals a crop of the whole degraded picture, flipped or not."""
    data = TrainingCrops(sets=[CLEAN], crop=16, degradation=Shift(), seed=0)
    inside = 0
    for index in range(12):
        clean = CLEAN.pairs[index % 3].clean.open().astype(np.float32).transpose(2, 0, 1) / 255
        whole = np.roll(clean, 2, axis=2)
        sample = data[0, index]
        for top in range(25):
            for left in range(2, 33):
                for flips in ((), (1,), (2,), (1, 2)):
                    window = np.s_[:, top : top + 16, left : left + 16]
                    if np.array_equal(np.flip(clean[window], flips), sample.clean):
                        assert np.array_equal(np.flip(whole[window], flips), sample.degraded)
                        inside += 1
    assert inside > 6


def test_windows_are_cropped_within() -> None:
    pair = Pair(picture(0), None, "a", "a", Window(10, 20, 16, 16))
    data = crops(PairSet("a", [pair], "synthetic"))
    shown = {tuple(data[epoch, 0].clean.flatten().sort().values.tolist()) for epoch in range(5)}
    window = picture(0).pixels[10:26, 20:36].astype(np.float32) / 255
    assert shown == {tuple(np.sort(window.flatten()).tolist())}


def test_crops_are_chosen_by_detail() -> None:
    """Half of the picture is flat; at least one of four random positions is usually in the other half."""
    half_flat = np.zeros((32, 200, 3), np.uint8)
    half_flat[:, 100:] = picture(0, 32, 100).pixels
    one = PairSet("one", [Pair(ArrayPicture(half_flat), None, "a", "a")], "synthetic", repeat=300)

    def detailed(detail: float) -> float:
        data = TrainingCrops(sets=[one], crop=16, degradation=Chain(steps=[]), seed=0, detail=detail)
        return float(np.mean([bool(data[0, index].clean.std() > 0.2) for index in range(300)]))

    assert 0.35 < detailed(0) < 0.6
    assert detailed(0) + 0.1 < detailed(0.5) < detailed(1) - 0.1
    assert detailed(1) > 0.9


def test_grey_crops_are_grey_on_both_sides() -> None:
    data = TrainingCrops(sets=[CLEAN, PAIRED], crop=16, degradation=GaussianNoise(sigmas=[25]), seed=0, grey=0.5)
    grey = 0
    for epoch in range(10):
        for index in range(len(data)):
            sample = data[epoch, index]
            flat = [bool((picture == picture[:1]).all()) for picture in (sample.clean, sample.degraded)]
            assert flat[0] == flat[1]
            if flat[0]:
                grey += 1
                if sample.task == "real":
                    torch.testing.assert_close(sample.degraded, 1 - sample.clean)
                else:
                    assert 15 / 255 < (sample.degraded - sample.clean).std() < 35 / 255
    assert 0.35 < grey / 160 < 0.65


def test_shares_are_probabilities() -> None:
    for share in ({"detail": 2}, {"grey": -1}):
        with pytest.raises(ValueError, match="give a probability"):
            TrainingCrops(sets=[CLEAN], crop=16, degradation=Chain(steps=[]), seed=0, **share)


def test_errors_while_training_name_the_picture() -> None:
    with pytest.raises(PictureError, match="50×40 is smaller than the crop of 64"):
        crops(CLEAN, crop=64)[0, 0]
    uneven = PairSet("uneven", [Pair(picture(0), picture(0, 41, 50), "a", "a")], "real")
    with pytest.raises(PictureError, match=r"50×41, but .* is 50×40; `moceir prepare check` lists all such pairs"):
        crops(uneven)[0, 0]


def test_validation_never_changes() -> None:
    noises = {"weak": GaussianNoise(sigmas=[15]), "strong": GaussianNoise(sigmas=[50])}
    one, two = (WholePictures(sets=[CLEAN, PAIRED], degradations=noises, seed=0) for _ in range(2))
    assert len(one) == 3 * 2 + 2
    assert one.tasks == ["weak", "strong", "real"]
    assert [one[i].task for i in range(3)] == ["weak", "strong", "weak"]
    assert [one[i].name for i in (0, 7)] == ["clean/0", "paired/s/1"]
    assert torch.equal(one[4].degraded, two[4].degraded)
    assert one[4].degraded.shape == (3, 40, 50)
    torch.testing.assert_close(one[7].degraded, 1 - one[7].clean)


def test_sampler_gives_each_index_to_one_rank() -> None:
    ranks = [EpochSampler(length=11, seed=0, rank=rank, world_size=2) for rank in range(2)]
    first = [list(rank) for rank in ranks]
    assert [len(keys) for keys in first] == [len(rank) for rank in ranks] == [5, 5]
    dealt = [index for keys in first for _, index in keys]
    assert len(set(dealt)) == 10
    for rank in ranks:
        rank.set_epoch(1)
    assert list(ranks[0]) != first[0]
    assert all(epoch == 1 for epoch, _ in ranks[0])


def test_sampler_skips_the_samples_of_a_killed_run_once() -> None:
    sampler = EpochSampler(length=9, seed=0)
    whole = list(sampler)
    sampler.skip = 4
    assert list(sampler) == whole[4:]
    assert list(sampler) == whole
