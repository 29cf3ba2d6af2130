"""Runs ``moceir restore`` as a user types it, and checks its options and exit status."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from moceir import MoCEIR, save_network
from moceir.cli.main import app
from moceir.inference.folder import Journal
from moceir.pictures.arrays import read_picture, write_picture


@pytest.fixture
def album(tmp_path: Path, photograph: np.ndarray) -> Path:
    for name in ("a.png", "deep/b.png"):
        write_picture(tmp_path / "album" / name, photograph)
    (tmp_path / "album" / "notes.txt").write_text("no picture")
    (tmp_path / "album" / "deep" / "c.svg").write_text("none that can be read")
    return tmp_path / "album"


def restore(*arguments: object, content: bytes | None = None) -> Result:
    return CliRunner().invoke(app, ["restore", *map(str, arguments)], input=content)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_json_has_a_line_for_each_picture(album: Path, tmp_path: Path) -> None:
    (album / "broken.png").write_bytes(b"broken")
    run = restore(album, "-o", tmp_path / "out", "--json", "--jobs", 2, "--weights", "moce_ir_30g")
    assert run.exit_code == 1
    lines = {Path(line["source"]).name: line for line in map(json.loads, run.stdout.splitlines())}
    assert lines.keys() == {"a.png", "b.png", "broken.png"}
    about = lines["a.png"]
    assert (about["height"], about["width"], about["frames"], about["depth"]) == (60, 80, 1, "uint8")
    assert len(about["experts"]) == 7
    assert 20 < about["gmacs"] <= 30
    assert about["seconds"] > 0
    assert about["warnings"] == []
    assert "not a readable picture" in lines["broken.png"]["error"]
    assert "left out 1 .svg: c.svg" in run.stderr
    assert "left out 1 .txt: notes.txt" in run.stderr
    assert files(tmp_path / "out") == ["a.png", "deep/b.png"]


def test_a_dry_run_writes_nothing(album: Path, tmp_path: Path) -> None:
    run = restore(album, "-o", tmp_path / "out", "--dry-run")
    assert run.stdout.splitlines()[0] == f"{album / 'a.png'} -> {tmp_path / 'out' / 'a.png'}"
    assert "2 pictures would be restored" in run.stderr
    assert not (tmp_path / "out").exists()


def test_suffix_and_skipping(album: Path) -> None:
    (album / "a_r.png").write_bytes(b"is there")
    assert restore(album / "a.png", album / "deep" / "b.png", "--suffix", "_r", "--skip-existing").exit_code == 0
    assert (album / "a_r.png").read_bytes() == b"is there"
    assert files(album) == ["a.png", "a_r.png", "deep/b.png", "deep/b_r.png", "deep/c.svg", "notes.txt"]


def test_in_place(album: Path, photograph: np.ndarray) -> None:
    before = files(album)
    assert restore(album, "--in-place").exit_code == 0
    assert files(album) == before
    assert not np.array_equal(read_picture(album / "a.png"), photograph)
    refused = restore(album, "--in-place", "--skip-existing")
    assert "every target exists" in str(refused.exception)


def test_compare_shows_before_and_after(album: Path, tmp_path: Path, photograph: np.ndarray) -> None:
    assert restore(album, "-o", tmp_path / "out", "--compare", tmp_path / "both").exit_code == 0
    assert files(tmp_path / "both") == ["a.png.jpg", "deep/b.png.jpg"]
    both = read_picture(tmp_path / "both" / "a.png.jpg")
    assert both.shape == (60 + 32, 2 * 80, 3)
    assert np.abs(both[32:, :80].astype(int) - photograph).mean() < 3
    assert np.abs(both[32:, 80:].astype(int) - read_picture(tmp_path / "out" / "a.png")).mean() < 3


def test_standard_input_and_output(album: Path, tmp_path: Path) -> None:
    assert restore(album / "a.png", "-o", tmp_path / "a.png").exit_code == 0
    content = (album / "a.png").read_bytes()
    piped = restore("-", "-o", "-", content=content)
    assert piped.stdout_bytes == (tmp_path / "a.png").read_bytes()
    with Image.open(io.BytesIO(restore("-", "--format", "webp", content=content).stdout_bytes)) as picture:
        assert picture.format == "WEBP"
    assert "standard input: not a readable picture" in str(restore("-", content=b"nothing").exception)
    assert "- is for one picture" in str(restore("-", "--in-place", content=content).exception)


def test_strength_and_limits(album: Path, tmp_path: Path, photograph: np.ndarray) -> None:
    assert restore(album / "a.png", "-o", tmp_path / "same.png", "--strength", 0).exit_code == 0
    assert np.array_equal(read_picture(tmp_path / "same.png"), photograph)
    run = restore(album / "a.png", "-o", tmp_path / "a.jpg", "--max-pixels", 4000)
    assert run.exit_code == 1
    assert "4,800 pixels; --max-pixels allows 4,000" in run.stderr
    sizes = []
    for quality in (30, 95):
        restore(album / "a.png", "-o", tmp_path / "a.jpg", "--quality", quality)
        sizes.append((tmp_path / "a.jpg").stat().st_size)
    assert sizes[0] < sizes[1] / 2


def test_two_shards_make_what_one_run_makes(tmp_path: Path, photograph: np.ndarray) -> None:
    for index in range(5):
        write_picture(tmp_path / "in" / f"{index}.png", np.roll(photograph, index, axis=1))
    assert restore(tmp_path / "in", "-o", tmp_path / "one").exit_code == 0
    for shards, count in (("1/2", 3), ("2/2", 2)):
        run = restore(tmp_path / "in", "-o", tmp_path / "two", "--shards", shards)
        assert f"restored {count} of {count} pictures" in run.stderr
    results = [tmp_path / "two" / Journal.PARTS.format(f"{number}-of-2") for number in (1, 2)]
    assert [len(path.read_text().splitlines()) for path in results] == [1 + 3, 1 + 2]
    for index in range(5):
        name = f"{index}.png"
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    (tmp_path / "two" / "3.png").unlink()
    again = restore(tmp_path / "in", "-o", tmp_path / "two", "--shards", "1/1")  # a different number of shards
    assert "4 pictures are done" in again.stderr
    assert (tmp_path / "one" / "3.png").read_bytes() == (tmp_path / "two" / "3.png").read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_is_continued(tmp_path: Path, photograph: np.ndarray, number: signal.Signals) -> None:
    """No file is left incomplete, finished pictures are not restored again, and the result equals that of one run."""
    for index in range(30):
        write_picture(tmp_path / "in" / f"{index:02d}.png", np.roll(photograph, index, axis=1))
    network = MoCEIR(num_blocks=(1, 1), num_decoder_blocks=(1,), num_heads=(1, 2), num_refinement_blocks=1)
    save_network(network, tmp_path / "identity.safetensors")
    out = tmp_path / "out"
    code = "from moceir.cli.main import main; main()"
    command = [sys.executable, "-c", code, "restore", str(tmp_path / "in"), "-o", str(out)]
    command += ["--weights", str(tmp_path / "identity.safetensors"), "--mac-budget", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + 120
        while len(list(out.glob("[0-9]*.png"))) < 3 and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        run.send_signal(number)
        _, said = run.communicate(timeout=60)
    if run.returncode == 0:
        pytest.skip("was through before the signal came")
    if number is not signal.SIGKILL:
        assert run.returncode == 130
        assert "the same command continues from there" in said
        assert not list(out.glob(".moceir-*.part"))
    assert (out / Journal.NAME).exists()
    done = {path: path.stat().st_mtime_ns for path in out.glob("[0-9]*.png")}
    assert 3 <= len(done) < 30
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{len(done)} pictures are done" in again.stderr
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    assert files(out) == [f"{index:02d}.png" for index in range(30)]
    assert all(
        np.array_equal(read_picture(out / f"{index:02d}.png"), np.roll(photograph, index, axis=1))
        for index in range(30)
    )
