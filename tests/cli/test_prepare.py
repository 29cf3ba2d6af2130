"""Runs ``moceir prepare`` as a user types it; training reads its output with the same configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from moceir.cli.main import app
from moceir.cli.options import load_sources
from moceir.pictures.arrays import read_picture, write_picture
from moceir.pictures.picture import PictureError


def prepare(*arguments: object) -> tuple[int, str]:
    run = CliRunner().invoke(app, ["prepare", *map(str, arguments)])
    if run.exception and not isinstance(run.exception, SystemExit):
        raise run.exception
    return run.exit_code, run.output


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_check_lists_the_datasets(tree: Path) -> None:
    status, output = prepare("check", tree, "--crop", 64)
    assert status == 1, "the miniature datasets are incomplete"
    rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in output.splitlines() if line.startswith("│")}
    assert {name: cells[0].strip() for name, cells in rows.items()} == {
        "BSD400": "4", "WED": "4", "SIDD": "9", "NIND": "5", "PolyU": "6", "GoPro": "4", "REDS_blur": "6",
        "REDS_blur_jpeg": "6",
    }  # fmt: skip
    status, output = prepare("check", tree, "--crop", 64, "--data", "polyu", "--set", "data.sets.PolyU.expected=6")
    assert status == 0
    assert "whole" in output


def test_check_names_a_missing_dataset(tmp_path: Path) -> None:
    status, output = prepare("check", tmp_path, "--data", "wed")
    assert status == 1
    assert f"WED: no folder WED in {tmp_path} or one level below" in output
    with pytest.raises(ValueError, match="Could not find 'data/nothing' Available options"):
        prepare("check", tmp_path, "--data", "nothing")


def test_tiles_equal_those_of_training_and_a_killed_command_is_completed(tree: Path, tmp_path: Path) -> None:
    before = snapshot(tree)
    assert prepare("tile", tree, "-o", tmp_path)[0] == 0
    assert snapshot(tree) == before, "the source is unchanged"
    source = load_sources("sidd", [])["SIDD"]
    native, tiled = source.find(source.locate(tree)), source.find(source.locate(tmp_path))
    assert tiled.folder == tmp_path / "SIDD_Medium_Srgb"
    assert not tiled.unpaired
    assert len(tiled.pairs) == len(native.pairs) == 9
    for ours, original in zip(tiled.pairs, native.pairs, strict=True):
        assert ours.group == original.group
        for picture, expected in zip(ours.open(), original.open(), strict=True):
            assert np.array_equal(picture, expected)

    whole = snapshot(tmp_path)
    lost = list(tmp_path.rglob("*-003.png"))
    assert len(lost) == 2
    for path in lost:  # simulate a kill before these files
        path.unlink()
    assert prepare("tile", tree, "-o", tmp_path)[0] == 0
    after = snapshot(tmp_path)
    assert set(after) == set(whole)
    kept = {name for name in whole if not name.endswith("-003.png") and Path(tmp_path, name).is_file()}
    assert {name: after[name] for name in kept} == {name: whole[name] for name in kept}


def test_gopro_is_tiled_with_explicit_sizes(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="GoPro is not tiled unless you say how: --size 512 --stride 384"):
        prepare("tile", tree, "-o", tmp_path, "--data", "gopro")
    assert prepare("tile", tree, "-o", tmp_path, "--data", "gopro", "--size", 64, "--stride", 48)[0] == 0
    assert len(list((tmp_path / "GOPRO_Large" / "train" / "GOPR0372_07_00" / "blur").iterdir())) == 2 * 2 * 2
    with pytest.raises(ValueError, match="IsoSeries files cannot be tiled; pack them"):
        prepare("tile", tree, "-o", tmp_path, "--data", "nind", "--size", 64)


def test_nothing_is_written_into_the_source(tree: Path) -> None:
    for command in ("tile", "pack"):
        with pytest.raises(ValueError, match="choose a folder outside"):
            prepare(command, tree, "-o", tree / "packed")


def test_packed_datasets_are_found_again(tree: Path, tmp_path: Path) -> None:
    status, output = prepare("pack", tree, "-o", tmp_path, "--data", "denoise")
    assert status == 0
    assert f"PolyU: 6 pictures in {tmp_path / 'PolyU'}" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["BSD400", "NIND", "PolyU", "SIDD", "WED"]
    whole = snapshot(tmp_path)
    assert prepare("pack", tree, "-o", tmp_path, "--data", "denoise")[0] == 0
    assert snapshot(tmp_path) == whole
    status, output = prepare("check", tmp_path, "--data", "nind", "--crop", 64, "--set", "data.sets.NIND.expected=5")
    assert status == 0


def test_a_broken_picture_stops_packing_by_name(tmp_path: Path, photograph: np.ndarray) -> None:
    write_picture(tmp_path / "in" / "a.png", photograph)
    (tmp_path / "in" / "b.png").write_bytes((tmp_path / "in" / "a.png").read_bytes()[:-40])
    with pytest.raises(PictureError, match=r"b\.png: not a readable picture"):
        prepare("pack", tmp_path / "in", "-o", tmp_path / "out", "--data", "photographs")
    assert not list((tmp_path / "out").glob("*"))
    assert np.array_equal(read_picture(tmp_path / "in" / "a.png"), photograph)
