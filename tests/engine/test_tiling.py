from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from moceir import MoCEIR, Restorer
from moceir.engine.tiling import OVERLAP, fade, overlapping_tiles

pytestmark = pytest.mark.unchecked  # very many calls


@pytest.mark.parametrize(("height", "width", "side"), [(1, 1, 65), (300, 500, 128), (129, 128, 128), (1000, 90, 200)])
def test_tiles_cover_the_picture_and_overlap(height: int, width: int, side: int) -> None:
    tiles = overlapping_tiles(height, width, side)
    weights = torch.zeros(height, width)
    for tile in tiles:
        assert tile.bottom - tile.top == min(side, height)
        assert tile.right - tile.left == min(side, width)
        tile.of(weights).add_(fade(tile))
    assert weights.min() > 0.4
    for one, other in itertools.pairwise(tiles):
        if one.top == other.top:
            assert one.right - other.left >= OVERLAP


def test_a_network_that_changes_nothing_leaves_no_seams(photograph: np.ndarray) -> None:
    large = np.tile(photograph, (4, 5, 1))
    restored = Restorer(MoCEIR(), tile=130).restore(large)  # untrained, it returns its input
    assert np.array_equal(restored, large)


def test_a_picture_of_one_tile_is_restored_whole(make_network: Callable[..., MoCEIR], photograph: np.ndarray) -> None:
    network = make_network()
    assert np.array_equal(Restorer(network, tile=80).restore(photograph), Restorer(network).restore(photograph))


def test_tiles_share_their_experts_and_differ_from_the_whole(
    make_network: Callable[..., MoCEIR], photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network()
    restorer = Restorer(network, tile=100)
    routes = []
    run = restorer.engine.run

    def recorded(*arguments: object, **keywords: object) -> object:
        routings = run(*arguments, **keywords)  # type: ignore[arg-type]
        routes.append([int(routing.experts) for routing in routings])
        return routings

    monkeypatch.setattr(restorer.engine, "run", recorded)
    large = np.tile(photograph, (3, 3, 1))
    restored = restorer.restore(large)
    assert len(routes) > 4
    assert all(route == routes[0] for route in routes)
    assert not np.array_equal(restored, Restorer(network).restore(large))


def test_tiles_must_be_larger_than_their_overlap() -> None:
    with pytest.raises(ValueError, match="tiles of 64 pixels: they overlap by 64, so they must be larger"):
        Restorer(MoCEIR(), tile=64)
