"""Which files, into which; and that a run over many goes on whatever happens to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moceir.inference.folder import plan
from moceir.pictures.arrays import read_image, write_image


@pytest.fixture
def album(tmp_path: Path, photograph: np.ndarray) -> Path:
    for name in ("a.png", "deep/b.jpg", "deep/er/c.bmp", ".hidden/d.png"):
        write_image(tmp_path / "album" / name, photograph)
    (tmp_path / "album" / "notes.txt").write_text("no picture")
    return tmp_path / "album"


def targets(output: Path, *inputs: object, **options: str) -> list[str]:
    return [job.target.relative_to(output).as_posix() for job in plan(map(str, inputs), output, **options).jobs]


def test_folders_keep_their_layout(album: Path, tmp_path: Path) -> None:
    assert targets(tmp_path / "out", album) == ["a.png", "deep/b.jpg", "deep/er/c.bmp"]
    assert targets(tmp_path / "out", album, format=".png") == ["a.png", "deep/b.png", "deep/er/c.png"]


def test_globs_keep_the_layout_below_their_first_folder(album: Path, tmp_path: Path) -> None:
    assert targets(tmp_path / "out", album / "**" / "*.jpg") == ["deep/b.jpg"]
    assert targets(tmp_path / "out", album / "d*" / "*.jpg") == ["deep/b.jpg"]
    assert targets(tmp_path / "out", album / "deep" / "*") == ["b.jpg"]


def test_one_file_may_be_given_a_name(album: Path, tmp_path: Path) -> None:
    assert plan([str(album / "a.png")], tmp_path / "better.jpg").jobs[0].target == tmp_path / "better.jpg"
    assert targets(tmp_path / "out", album / "a.png") == ["a.png"]


def test_output_inside_the_input_is_not_restored_again(album: Path) -> None:
    write_image(album / "restored" / "a.png", read_image(album / "a.png"))
    assert targets(album / "restored", album) == ["a.png", "deep/b.jpg", "deep/er/c.bmp"]


def test_plans_that_would_lose_pictures_are_refused(album: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="would be written over"):
        plan([str(album)], album)
    with pytest.raises(ValueError, match="would be written over"):  # one input's target is another's source
        plan([str(album / "deep"), str(album / "deep" / "er")], album / "deep")
    with pytest.raises(ValueError, match="the name of a picture"):
        plan([str(album)], tmp_path / "one.png")
    with pytest.raises(ValueError, match="its format is not"):
        plan([str(album / "a.png")], tmp_path / "one.jpg", format=".png")
    write_image(tmp_path / "a.png", read_image(album / "a.png"))
    with pytest.raises(ValueError, match="would both be written to"):
        plan([str(album / "a.png"), str(tmp_path / "a.png")], tmp_path / "out")
    with pytest.raises(ValueError, match="absent: no such file"):
        plan([str(tmp_path / "absent")], tmp_path / "out")
