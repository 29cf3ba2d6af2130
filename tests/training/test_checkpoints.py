"""Checkpoints survive a kill at any moment of a write, a full disk, and damage."""

from __future__ import annotations

import errno
import os
import signal
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from threading import Timer

import pytest
import torch
from processes import forked
from test_training import run

from moceir import MoCEIR
from moceir.losses.weighted import WeightedLoss
from moceir.pictures.picture import PictureError
from moceir.training import callbacks, checkpoints
from moceir.training.checkpoints import CheckpointFiles, read_checkpoint
from moceir.training.signals import Stopped
from moceir.training.stages import unfinished


def checkpoint(number: float) -> dict:
    state = {"network.weight": torch.full((1000,), float(number))}
    return {"state_dict": state, "loops": {}, "optimizer_states": [], "network_config": MoCEIR().config}


def number(path: Path) -> int:
    return int(read_checkpoint(path)["state_dict"]["network.weight"][0])


@pytest.mark.parametrize("function", ["write", "fsync", "link", "rename"])
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_moment_leaves_an_intact_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, after: bool
) -> None:
    files, last = CheckpointFiles(), tmp_path / "last.ckpt"
    for n in (1, 2):
        files.save_checkpoint(checkpoint(n), last)
    assert (number(last), number(tmp_path / "last.previous.ckpt")) == (2, 1)

    def killing(original: Callable) -> Callable:
        def call(*arguments: object, **options: object) -> object:
            if after:
                original(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        return call

    def write() -> None:
        places = {"rename": (Path, "replace"), "write": (checkpoints, "write_atomically")}
        owner, name = places.get(function, (os, function))
        setattr(owner, name, killing(getattr(owner, name)))
        files.save_checkpoint(checkpoint(3), last)

    assert forked(write) == -signal.SIGKILL
    assert number(last) in (2, 3)
    assert number(tmp_path / "last.previous.ckpt") in (1, 2)
    files.save_checkpoint(checkpoint(4), last)
    assert number(last) == 4


def test_nothing_is_written_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TMPDIR may be on another file system, which may be full."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    CheckpointFiles().save_checkpoint(checkpoint(1), tmp_path / "run" / "last.ckpt")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["last.ckpt"]


def test_a_full_disk_does_not_end_training(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For a while, panels and checkpoints cannot be written; the last ones can."""
    full = OSError(errno.ENOSPC, "No space left on device")
    written, original = [], checkpoints.write_atomically

    def write(path: Path, *content: object, **options: object) -> None:
        written.append(path.name)
        if 1 < len(written) < 5:
            raise full
        original(path, *content, **options)

    def panel(path: Path, picture: object) -> None:
        raise PictureError(f"{path}: could not be written (No space left on device)")

    monkeypatch.setattr(checkpoints, "write_atomically", write)
    monkeypatch.setattr(callbacks, "write_picture", panel)
    run(tmp_path, f"data.root={photographs}", "trainer.max_epochs=3", "data.sets.photographs.repeat=2")
    assert "last.ckpt: could not be written (No space left on device); training continues" in caplog.text
    assert "epoch-0000.png: could not be written (No space left on device); training continues" in caplog.text
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["epoch"] == 2
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_disk_that_stays_full_is_reported_at_the_end(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, *content: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_atomically", write)
    with pytest.raises(ValueError, match=r"last\.ckpt: could not be written \(No space left on device\); make room"):
        run(tmp_path, f"data.root={photographs}")


def damaged(content: bytes) -> dict[str, tuple[bytes | None, str]]:
    flipped = bytearray(content)
    flipped[content.index(b"\0\0\x80\x3f" * 50) + 100] ^= 1  # a weight of 1
    return {
        "missing": (None, "no such checkpoint"),
        "empty": (b"", "an empty file"),
        "cut": (content[: len(content) // 2], "cut short, or not a checkpoint"),
        "flipped": (bytes(flipped), r"damaged \(wrong checksum of .*data/0"),
        "text": (b"some words", "cut short, or not a checkpoint"),
    }


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "flipped", "text"])
def test_unusable_checkpoints_give_an_error_of_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "last.ckpt"
    CheckpointFiles().save_checkpoint(checkpoint(1), path)
    content, message = damaged(path.read_bytes())[kind]
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"last\.ckpt: {message}") as caught:
        run(tmp_path / "run", f"resume={path}")
    assert "\n" not in str(caught.value)


def test_foreign_checkpoints_give_an_error_of_one_line(tmp_path: Path) -> None:
    path = tmp_path / "foreign.ckpt"
    for content, message in (
        ({"state_dict": {}}, "not a checkpoint of a training run .no loops, network_config, optimizer_states.; to"),
        ([1], "not a checkpoint of a training run"),
        ({"object": Path}, "not a checkpoint of this package, or it holds objects besides tensors"),
        (checkpoint(float("nan")), "network.weight holds NaN or infinity, so the run has diverged"),
        (checkpoint(1), r"its network, .*'dim': 8.*, is another than this run's, .*'dim': 4"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=rf"foreign\.ckpt: {message}") as caught:
            run(tmp_path / "run", f"resume={path}")
        assert "\n" not in str(caught.value)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", "b")
    with pytest.raises(ValueError, match=r"foreign\.ckpt: not a checkpoint of this package"):
        run(tmp_path / "run", f"resume={path}")


def test_the_newest_intact_checkpoint_is_resumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "moceir")
    assert unfinished(tmp_path, "release") is None
    last = [tmp_path / "release" / day / "checkpoints" / "last.ckpt" for day in ("2026-01-09", "2026-01-10")]
    for path in last:
        for n in (1, 2):
            CheckpointFiles().save_checkpoint(checkpoint(n), path)
    assert unfinished(tmp_path, "release") == last[1]
    last[1].write_bytes(b"")
    assert unfinished(tmp_path, "release") == last[1].with_name("last.previous.ckpt")
    assert f"skipped {last[1]}: an empty file" in caplog.text
    assert f"continuing from {last[1].with_name('last.previous.ckpt')}" in caplog.text
    last[1].with_name("last.previous.ckpt").unlink()
    assert unfinished(tmp_path, "release") == last[0]
    (last[0].parents[1] / "network.safetensors").touch()  # mark that run as finished
    assert unfinished(tmp_path, "release") is None


def test_a_signal_while_waiting_for_data(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a data server does not answer, a signal saves the completed steps at once."""
    from moceir.data import datasets

    given = []
    original = datasets.training_sample

    def stalling(*arguments: object, **options: object) -> object:
        given.append(None)
        if len(given) == 9:  # the first of the third batch
            Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
            time.sleep(60)
        return original(*arguments, **options)

    monkeypatch.setattr(datasets, "training_sample", stalling)
    start = time.monotonic()
    with pytest.raises(Stopped, match="SIGTERM"):
        run(tmp_path, f"data.root={photographs}", "data.sets.photographs.repeat=4")
    assert time.monotonic() - start < 30
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 2


def test_weights_that_are_not_finite_are_not_written(photographs: Path, tmp_path: Path) -> None:
    arguments = [f"data.root={photographs}", "data.sets.photographs.repeat=8", "callbacks.last.minutes=0"]
    with pytest.raises(ValueError, match=r"the loss is not finite.*; continue with resume=.*last\.ckpt$") as caught:
        run(tmp_path, *arguments, "optimizer.lr=1e30", "trainer.gradient_clip_val=null", "warmup_steps=1")
    assert "\n" not in str(caught.value)
    read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")


def test_a_first_step_that_diverges_advises_no_checkpoint(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = torch.tensor(float("nan"))
    monkeypatch.setattr(WeightedLoss, "forward", lambda *_: (nan, {"l1": nan}))
    with pytest.raises(ValueError, match="step 0: the loss is not finite") as caught:
        run(tmp_path, f"data.root={photographs}")
    assert "resume" not in str(caught.value)
    assert "last.ckpt" not in str(caught.value)
