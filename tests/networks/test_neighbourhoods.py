"""Tests means over neighbourhoods against their definition, in strips too, and what an expert gains by them."""

from __future__ import annotations

import pytest
import torch
from conftest import pictures, randomise

from moceir import NAFMixture
from moceir.networks.neighbourhoods import CellSums, between, means_around, sum_over_cells

SIDE = 32
SIZES = [(1, 1), (7, 40), (32, 32), (33, 64), (61, 97)]


def means(x: torch.Tensor) -> torch.Tensor:
    """The definition: squares of SIDE pixels around places SIDE/2 apart, as far as they lie in the map."""
    height, width = x.shape[2:]

    def spans(length: int) -> list[slice]:
        return [slice(max(0, first - 8), first + 24) for first in range(0, length, 16)]

    rows = [torch.stack([x[:, :, i, j].mean(dim=(2, 3)) for j in spans(width)], dim=-1) for i in spans(height)]
    return torch.stack(rows, dim=2)


@pytest.mark.parametrize("size", SIZES)
def test_means_are_those_of_the_squares(size: tuple[int, int]) -> None:
    x = pictures(2, *size)
    assert torch.allclose(means_around(sum_over_cells(x, SIDE)), means(x), atol=1e-6)


def test_sums_of_strips_make_those_of_the_map() -> None:
    x = pictures(1, 61, 97)
    strips = [sum_over_cells(x[:, :, top:bottom], SIDE) for top, bottom in [(0, 6), (6, 34), (34, 61)]]
    whole, joined = sum_over_cells(x, SIDE), strips[0].plus(strips[1]).plus(strips[2])
    assert isinstance(joined, CellSums)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(whole, joined, strict=True))


def test_values_are_interpolated_linearly_between_places() -> None:
    places = torch.arange(4.0) * 16 + 7.5  # the middle between two pixels
    values = (3 * places[:, None] + 2 * places)[None, None]
    rows, columns = torch.arange(61.0).clamp(7.5, 55.5)[:, None], torch.arange(50.0).clamp(7.5, 55.5)
    assert torch.allclose(between(values, SIDE, 0, 61, 50)[0, 0], 3 * rows + 2 * columns)


@pytest.mark.parametrize(("top", "height"), [(0, 5), (2, 30), (24, 16), (50, 11), (60, 1)])
def test_a_strip_is_part_of_the_map(top: int, height: int) -> None:
    values = pictures(1, 4, 7)
    whole = between(values, SIDE, 0, 61, 97)
    assert torch.allclose(between(values, SIDE, top, height, 97), whole[:, :, top : top + height], atol=1e-6)


def test_what_is_far_away_changes_nothing() -> None:
    network = NAFMixture(dim=4, num_blocks=(0, 1), num_decoder_blocks=(1,), widths=(1, 1), neighbourhoods=(32, 0))
    network = randomise(network).eval()
    x = pictures(1, 64, 256)
    changed = torch.cat([x[..., :160], 1 - x[..., 160:]], dim=3)
    for expert, local in enumerate([True, False]):
        restored = [network(one, experts=torch.full((1, 1, 1), expert))[..., :64] for one in (x, changed)]
        assert torch.equal(*restored) == local
