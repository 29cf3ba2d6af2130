"""Tests the grid that the mixture's router sees: against its definition, in strips, and that it tells JPEG apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import pictures, randomise

from moceir import NAFMixture
from moceir.data.degradations import Jpeg
from moceir.data.samples import sample_photograph
from moceir.networks.grid import FLOOR, FOUND, PLANES, Grid
from moceir.networks.routes import RouteCosts, Run
from moceir.networks.strips import Halo, Strip, add_up
from moceir.pictures.arrays import read_picture

ONES = torch.ones(1, 3, 32, 32)


def found(x: torch.Tensor) -> torch.Tensor:
    """Return what the router sees, as (B, plane, direction, wave)."""
    run = Run(RouteCosts(0))
    assert torch.equal(Grid()(x, run), x)
    return run.found[0].view(len(x), 3, 2, 8)


def expected(x: torch.Tensor) -> np.ndarray:
    """The definition, place by place, in double precision."""
    result = np.zeros((3, 2, 8))
    for index, weights in enumerate(PLANES):
        plane = np.tensordot(np.array(weights), x[0].double().numpy(), axes=1)
        for direction, one in enumerate((plane, plane.T)):
            differences = np.abs(np.diff(one, axis=1))
            place = np.arange(differences.shape[1]) % 16
            for wave in range(1, 9):
                turns = np.exp(2j * np.pi * wave * place / 16)
                strength = abs(((differences - differences.mean()) * turns).sum()) * 16 / differences.size
                result[index, direction, wave - 1] = np.log((strength + FLOOR) / (differences.mean() + FLOOR))
    return result


@pytest.mark.parametrize("size", [(2, 2), (4, 40), (16, 16), (33, 50)])
def test_it_is_what_the_definition_says(size: tuple[int, int]) -> None:
    x = pictures(1, *size)
    np.testing.assert_allclose(found(x)[0].numpy(), expected(x), atol=2e-4)


def test_mixed_precision_changes_nothing() -> None:
    x = pictures(1, 33, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = found(x)
    assert torch.equal(mixed, found(x))


def test_strips_add_up_to_the_picture() -> None:
    grid, x = Grid().double(), pictures(1, 57, 40).double()
    strips = [
        Strip(x[:, :, max(0, top - 1) : bottom + 1], None, None, Halo(int(top > 0), int(bottom < 57), top))
        for top, bottom in [(0, 16), (16, 48), (48, 57)]
    ]
    parts = add_up(grid.summarise(strip, [])[0] for strip in strips)
    for one, other in zip(parts, grid.summarise(Strip(x, None, None, Halo()), [])[0], strict=True):
        torch.testing.assert_close(one, other)


def test_flat_colours_have_no_grid() -> None:
    assert torch.equal(found(torch.full((2, 3, 24, 40), 0.3)), torch.zeros(2, 3, 2, 8))


@pytest.mark.parametrize("offset", [(0, 0), (3, 5)])
def test_jpeg_leaves_one_wherever_the_picture_is_cut(offset: tuple[int, int]) -> None:
    photograph = read_picture(sample_photograph("astronaut.png")).transpose(2, 0, 1)[:, :200, :200] / np.float32(255)
    compressed, _ = Jpeg(quality=[20, 20])(photograph, np.random.default_rng(0))
    top, left = offset
    clean, grid = (
        found(torch.from_numpy(np.ascontiguousarray(one[None, :, top:, left:])))[0] for one in (photograph, compressed)
    )
    assert (grid - clean)[0, :, 1].min() > 1  # the wave of 8 pixels in the luma
    assert (grid - clean)[1:, :, 0].min() > 1  # that of 16 pixels in the chromas, whose resolution is halved


def test_only_a_router_that_asks_for_it_sees_it() -> None:
    small = {"dim": 4, "num_blocks": (1, 1), "num_decoder_blocks": (1,), "widths": (1, 1)}
    network, without = (randomise(NAFMixture(**small, grid=grid)).eval() for grid in (True, False))
    layer = network.latent[0].mlp[1]
    assert layer.in_features - without.latent[0].mlp[1].in_features == FOUND
    assert network.route_costs.base > without.route_costs.base
    layer.weight.data[:, FOUND:] = 0  # it sees nothing else
    flat, dark, noise = (network.restore_and_route(x).routings[0].logits for x in (ONES, ONES / 2, pictures(1, 32, 32)))
    assert torch.equal(flat, dark)
    assert not torch.allclose(flat, noise)
