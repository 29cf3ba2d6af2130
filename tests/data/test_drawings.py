from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moceir.config import build
from moceir.data.drawings import Drawing
from moceir.data.mixture import find_sets, mix
from moceir.data.pack import write_pack
from moceir.data.sources import Drawings


@pytest.fixture(scope="module")
def drawings() -> list[np.ndarray]:
    return [Drawing(number, 96).open() for number in range(120)]


def test_a_drawing_depends_on_its_number_alone(drawings: list[np.ndarray]) -> None:
    assert np.array_equal(Drawing(7, 96).open(), drawings[7])
    assert Drawing(7, 96).size() == drawings[7].shape[:2] == (96, 96)
    assert all(drawing.dtype == np.uint8 and drawing.shape == (96, 96, 3) for drawing in drawings)
    assert len({drawing.tobytes() for drawing in drawings}) > 110


def test_drawings_have_all_kinds_of_content(drawings: list[np.ndarray]) -> None:
    colours = [np.unique(drawing.reshape(-1, 3), axis=0) for drawing in drawings]
    assert sum(len(every) == 1 for every in colours) >= 3, "flat"
    assert sum(len(every) > 200 for every in colours) >= 20, "gradients and smooth edges"
    grey = [np.ptp(drawing, axis=2).max() == 0 for drawing in drawings]
    assert 12 <= sum(grey) <= 60
    corners = {tuple(colour) for every in colours for colour in every if set(colour.tolist()) <= {0, 255}}
    assert len(corners) == 8, "black, white and every saturated primary"


def test_drawings_stand_beside_photographs(tree: Path) -> None:
    sources = build(
        "data.sets", ["data=[bsd400,drawings]", "data.sets.drawings.count=10", "data.sets.BSD400.validation=1"]
    )
    listings = find_sets(tree, sources, allow_missing=False)
    mixture = mix(listings, sources, validation_pictures=4)
    found = {one.name: one.pairs for one in mixture.training}
    assert [pair.name for pair in found["drawings"]] == [f"{number:02d}" for number in range(10)]
    untouched = [pair for pair in found["drawings"] if pair.degraded]
    assert len(untouched) == 5
    for pair in untouched:
        clean, degraded = pair.open()
        assert degraded is not None
        assert np.array_equal(clean, degraded)
    assert found["BSD400"]


def test_drawings_can_be_packed(tmp_path: Path) -> None:
    source = Drawings(folders=["drawings"], count=6, side=48, untouched=0.5)
    drawn = source.find(tmp_path / "drawings").pairs
    write_pack(drawn, tmp_path / "drawings", shard_mib=1, workers=1, description="packing")
    folder = source.locate(tmp_path)
    assert folder == tmp_path / "drawings"
    packed = source.find(folder).pairs
    assert [pair.name for pair in packed] == [pair.name for pair in drawn]
    assert [pair.degraded is None for pair in packed] == [pair.degraded is None for pair in drawn]
    for one, other in zip(packed, drawn, strict=True):
        assert np.array_equal(one.open()[0], other.open()[0])
