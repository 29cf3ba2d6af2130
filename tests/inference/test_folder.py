"""Tests the mapping of input files to output files, and that interrupted runs over many files can continue."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

from moceir import MoCEIR, Restorer
from moceir.inference.folder import Job, Journal, Shard, fingerprint, plan, restore_all
from moceir.inference.restore import Report
from moceir.pictures.arrays import read_picture, write_picture
from moceir.pictures.files import remove_leftovers, replacing
from moceir.pictures.picture import PictureError


@pytest.fixture
def album(tmp_path: Path, photograph: np.ndarray) -> Path:
    for name in ("a.png", "deep/b.jpg", "deep/er/c.bmp", ".hidden/d.png"):
        write_picture(tmp_path / "album" / name, photograph)
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
    write_picture(album / "restored" / "a.png", read_picture(album / "a.png"))
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
    write_picture(tmp_path / "a.png", read_picture(album / "a.png"))
    with pytest.raises(ValueError, match="would both be written to"):
        plan([str(album / "a.png"), str(tmp_path / "a.png")], tmp_path / "out")
    with pytest.raises(ValueError, match="absent: no such file"):
        plan([str(tmp_path / "absent")], tmp_path / "out")


def test_other_names_and_places(album: Path, tmp_path: Path) -> None:
    assert targets(album, album / "deep" / "b.jpg") == ["b.jpg"]
    beside = plan([str(album)], None, suffix="_restored").jobs
    assert [job.target.relative_to(album).as_posix() for job in beside][:2] == ["a_restored.png", "deep/b_restored.jpg"]
    in_place = plan([str(album)], None, in_place=True).jobs
    assert all(job.source == job.target for job in in_place)
    with pytest.raises(ValueError, match="say where to"):
        plan([str(album)], None)
    with pytest.raises(ValueError, match="--in-place goes with neither"):
        plan([str(album)], tmp_path, in_place=True)


def test_files_that_are_not_pictures_are_reported(album: Path, tmp_path: Path) -> None:
    (album / "elsewhere").symlink_to(album, target_is_directory=True)
    planned = plan([str(album)], tmp_path / "out")
    assert [path.name for path in planned.left_out] == ["elsewhere", "notes.txt"]
    assert len(planned.jobs) == 3


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may look into any folder")
def test_unreadable_folders_are_named(album: Path, tmp_path: Path) -> None:
    (album / "deep").chmod(0)
    try:
        planned = plan([str(album)], tmp_path / "out")
    finally:
        (album / "deep").chmod(0o755)
    assert planned.unreadable == [f"{album / 'deep'}: could not be read (Permission denied)"]


def report() -> Report:
    return Report(1, 1, 1, "uint8", [[0]], 1.0, 0.0, [])


def test_other_files_are_restored_when_one_fails(tmp_path: Path) -> None:
    jobs = [Job(tmp_path / f"{i}.png", tmp_path / "out" / f"{i}.png") for i in range(4)]

    def restore(job: Job, stop: Event) -> Report:
        if job is jobs[1]:
            raise PictureError("broken")
        if job is jobs[2]:
            raise AssertionError("a fault of ours")
        return report()

    outcomes = {job.source.name: str(outcome) for job, outcome in restore_all(restore, jobs, workers=2)}
    assert len(outcomes) == 4
    assert outcomes["1.png"] == "broken"
    assert outcomes["2.png"] == f"{tmp_path / '2.png'}: AssertionError: a fault of ours"


def test_ending_early_stops_what_is_at_work(tmp_path: Path) -> None:
    jobs = [Job(tmp_path / f"{i}.png", tmp_path / "out" / f"{i}.png") for i in range(50)]
    begun = []

    def restore(job: Job, stop: Event) -> Report:
        begun.append(job)
        if job is not jobs[0] and not stop.wait(timeout=60):
            raise AssertionError("was not stopped")
        return report()

    for _ in restore_all(restore, jobs, workers=2):
        break
    assert len(begun) <= 3


def test_pictures_that_need_too_much_memory_are_named(
    photograph: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer = Restorer(MoCEIR())

    def exhausted(*arguments: object, **options: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(restorer, "run", exhausted)
    write_picture(tmp_path / "a.png", photograph)
    with pytest.raises(PictureError, match=r"a\.png: could not be restored \(.*Cannot allocate memory\)"):
        restorer.restore_file(tmp_path / "a.png", tmp_path / "out" / "a.png")
    assert not list((tmp_path / "out").iterdir())


def test_unwritable_targets_are_found_before_computing(
    photograph: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer = Restorer(MoCEIR())

    def computed(*arguments: object, **options: object) -> None:
        pytest.fail("computed")

    monkeypatch.setattr(restorer, "run", computed)
    write_picture(tmp_path / "a.png", photograph)
    (tmp_path / "file").touch()
    with pytest.raises(PictureError, match=r"file/b\.png: could not be written \((File exists|Not a directory)\)"):
        restorer.restore_file(tmp_path / "a.png", tmp_path / "file" / "b.png")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(PictureError, match=r"b\.png: could not be written \(No space left on device\)"):
        restorer.restore_file(tmp_path / "a.png", tmp_path / "out" / "b.png")
    assert not list((tmp_path / "out").iterdir())


def test_strange_files(photograph: np.ndarray, tmp_path: Path) -> None:
    restorer = Restorer(MoCEIR())
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "folder.png").mkdir()
    for name, message in {
        "pipe.png": "not a file but a folder, a pipe or a device",
        "loop.png": "could not be read",
        "folder.png": "could not be read|not a file",
        "gone.png": "could not be read",
    }.items():
        with pytest.raises(PictureError, match=f"{name}: {message}"):
            restorer.restore_file(tmp_path / name, tmp_path / "out" / name)
    with pytest.raises(PictureError, match="/dev/zero: not a file"):
        restorer.restore_file(Path("/dev/zero"), tmp_path / "out" / "a.png")
    longest = "ä" * 125 + "b.png"  # 255 bytes
    write_picture(tmp_path / longest, photograph)
    restorer.restore_file(tmp_path / longest, tmp_path / "out" / longest)
    assert np.array_equal(read_picture(tmp_path / "out" / longest), photograph)


def test_in_place_keeps_links_and_permissions(photograph: np.ndarray, tmp_path: Path) -> None:
    write_picture(tmp_path / "real" / "a.png", photograph)
    (tmp_path / "real" / "a.png").chmod(0o640)
    (tmp_path / "link.png").symlink_to(tmp_path / "real" / "a.png")
    before = (tmp_path / "real" / "a.png").stat().st_ino
    Restorer(MoCEIR()).restore_file(tmp_path / "link.png", tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    after = (tmp_path / "real" / "a.png").stat()
    assert after.st_mode & 0o777 == 0o640
    assert after.st_ino != before
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["a.png"]


def test_leftovers_are_removed_but_not_those_of_a_run_at_work(tmp_path: Path) -> None:
    (tmp_path / ".moceir-0123456789abcdef.part").write_bytes(b"of a run that was killed")
    with replacing(tmp_path / "a.png") as file:
        file.write(b"of a run at work")
        remove_leftovers(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
    assert (tmp_path / "a.png").read_bytes() == b"of a run at work"


def test_a_journal_knows_what_is_done(tmp_path: Path) -> None:
    jobs = [Job(tmp_path / f"{i}.png", tmp_path / "out" / f"{i}.png") for i in range(4)]
    for job in jobs:
        job.source.write_bytes(b"source")
    with suppress(KeyboardInterrupt), Journal(jobs, "settings") as journal:
        assert not any(journal.done(job) for job in jobs)
        with pytest.raises(ValueError, match="another run restores into it"):
            Journal(jobs, "settings")
        for job in jobs[:3]:
            journal.note(job, hashlib.sha256(b"restored").hexdigest(), report())
        for job in jobs[:2]:  # the third was killed before it was written
            job.target.write_bytes(b"restored")
        raise KeyboardInterrupt
    with (tmp_path / "out" / Journal.NAME).open("a") as file:
        file.write('{"target": "half a li')
    jobs[1].source.write_bytes(b"another source")
    with Journal(jobs, "settings") as journal:
        assert [journal.done(job) for job in jobs] == [True, False, False, False]
    assert not (tmp_path / "out" / Journal.NAME).exists()  # the run is complete
    with Journal(jobs, "settings") as journal:
        assert not any(journal.done(job) for job in jobs)


def test_other_settings_restart_the_run(tmp_path: Path) -> None:
    jobs = [Job(tmp_path / "a.png", tmp_path / "out" / "a.png")] * 2
    (tmp_path / "a.png").write_bytes(b"source")
    with suppress(KeyboardInterrupt), Journal(jobs, "settings") as journal:
        journal.note(jobs[0], hashlib.sha256(b"restored").hexdigest(), report())
        jobs[0].target.write_bytes(b"restored")
        raise KeyboardInterrupt
    with Journal(jobs, "others") as journal:
        assert not journal.done(jobs[0])
    network = MoCEIR()
    before = fingerprint(network, 30.0)
    assert before != fingerprint(network, 28.0)
    with torch.no_grad():
        network.output.weight += 1
    assert before != fingerprint(network, 30.0)


def test_each_job_belongs_to_one_part(tmp_path: Path) -> None:
    jobs = [Job(tmp_path / f"{i}", tmp_path / "out" / f"{i}") for i in range(10)]
    parts = [Shard.parse(f"{number}/4").deal(jobs) for number in range(1, 5)]
    assert sorted(job for part in parts for job in part) == sorted(jobs)
    assert [len(part) for part in parts] == [3, 3, 2, 2]
    for wrong in ("0/4", "5/4", "4", "1/0", "-1/4", "a/b", "1/2/3", ""):
        with pytest.raises(ValueError, match="as in 1/8"):
            Shard.parse(wrong)


def test_parallel_parts_share_their_progress(tmp_path: Path) -> None:
    jobs = [Job(tmp_path / f"{i}.png", tmp_path / "out" / f"{i}.png") for i in range(3)]
    for job in jobs:
        job.source.write_bytes(b"source")
    with Journal(jobs, "settings", part=Shard(1, 2)) as one, Journal(jobs, "settings", part=Shard(2, 2)) as other:
        with pytest.raises(ValueError, match="another run restores into it, as 2-of-2"):
            Journal(jobs, "settings", part=Shard(2, 2))
        one.note(jobs[0], hashlib.sha256(b"restored").hexdigest(), report())
        jobs[0].target.write_bytes(b"restored")
        other.fail(jobs[1], PictureError("broken"))
    assert one.path != other.path
    with Journal(jobs, "settings", part=Shard(3, 3)) as later:
        assert [later.done(job) for job in jobs] == [True, False, False]
    with Journal(jobs, "others", part=Shard(3, 3)) as later:
        assert not any(later.done(job) for job in jobs)
    assert json.loads(one.path.read_text().splitlines()[1])["gmacs"] == 1.0
    assert json.loads(other.path.read_text().splitlines()[1])["error"] == "broken"


def test_a_list_names_pictures_and_their_places(album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(album)
    (tmp_path / "list.txt").write_text(f"a.png\n\ndeep/b.jpg\ngone.png\n{album}/deep/er/c.bmp\n")
    inside = str(album).lstrip("/")
    assert targets(tmp_path / "out", f"@{tmp_path / 'list.txt'}") == [
        "a.png", "deep/b.jpg", "gone.png", f"{inside}/deep/er/c.bmp",
    ]  # fmt: skip
    for content, message in {"../a.png": "without ..", "": "lists no picture"}.items():
        (tmp_path / "list.txt").write_text(content)
        with pytest.raises(ValueError, match=message):
            plan([f"@{tmp_path / 'list.txt'}"], tmp_path / "out")
    with pytest.raises(ValueError, match="no list of paths could be read"):
        plan(["@nowhere.txt"], tmp_path / "out")


def test_without_locks_files_of_other_runs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("moceir.pictures.files.fcntl.flock", none)
    with replacing(tmp_path / "a.png") as file:
        file.write(b"of a run at work")
        remove_leftovers(tmp_path)
    assert (tmp_path / "a.png").exists()
