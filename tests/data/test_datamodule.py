"""Tests batches from a folder of datasets: mixture, workers, restarts, and reactions to bad input."""

from __future__ import annotations

import logging
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from moceir.config import config_dir
from moceir.data.datamodule import RestorationDataModule
from moceir.data.datasets import Batch
from moceir.pictures.arrays import write_picture

# The miniature datasets are too small for the real numbers of held-out pictures.
SPLITS = {
    "BSD400": "validation=1", "NIND": "validation=1", "PolyU": "test=1", "PolyU ": "validation=1",
    "SIDD": "validation=1", "GoPro": "validation=1", "REDS_blur": "validation=1", "REDS_blur_jpeg": "validation=1",
}  # fmt: skip


def make(root: Path, *overrides: str, data: str = "all", crop: int = 64) -> RestorationDataModule:
    splits = [f"data.sets.{name.strip()}.{value}" for name, value in SPLITS.items()] if data == "all" else []
    settings = [f"data={data}", f"data.root={root}", f"data.crop={crop}", "data.batch_size=4", *splits, *overrides]
    with initialize_config_dir(config_dir(), version_base="1.3"):
        module: RestorationDataModule = instantiate(compose("train", ["name=test", *settings]).data)
    return module


def epoch(module: RestorationDataModule, number: int) -> Iterator[Batch]:
    loader = module.train_dataloader()
    loader.sampler.set_epoch(number)
    return iter(loader)


def equal(one: list[Batch], two: list[Batch]) -> bool:
    assert len(one) == len(two) > 0
    return all(
        a.tasks == b.tasks
        and a.names == b.names
        and torch.equal(a.degraded, b.degraded)
        and torch.equal(a.clean, b.clean)
        for a, b in zip(one, two, strict=True)
    )


def test_real_degradations_do_not_depend_on_workers(tree: Path) -> None:
    def batches(workers: int) -> list[Batch]:
        module = make(
            tree, "degradation=real", "data.detail=0.5", "data.grey=0.2", f"data.num_workers={workers}",
            "data.sets.drawings.count=12", "data.sets.drawings.side=80", "data.sets.BSD400.validation=1",
            data="[bsd400,drawings]",
        )  # fmt: skip
        module.setup("fit")
        return list(epoch(module, 0))

    assert equal(batches(2), batches(0))


def test_everything_is_merged_with_its_repeats(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = make(tree)
    module.prepare_data()
    with caplog.at_level(logging.INFO):
        module.setup("fit")
    sizes = {one.name: len(one.pairs) * one.repeat for one in module.train_set.sets}
    assert sizes == {
        "BSD400": 3 * 4, "WED": 4 * 4, "SIDD": 2 + 0, "NIND": 4 * 8, "PolyU": 2 * 40, "GoPro": 2 * 3, "REDS_blur": 4,
        "REDS_blur_jpeg": 4,
    }  # fmt: skip
    assert len(module.train_set) == sum(sizes.values())
    tasks = [task for batch in epoch(module, 0) for task in batch.tasks]
    assert set(tasks) == {"gaussian", "poisson", "real_noise", "blur", "blur_jpeg"}
    assert module.validation_tasks[-3:] == ["real_noise", "blur", "blur_jpeg"]
    row = next(line for line in caplog.text.splitlines() if "NIND" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "NIND", "real_noise", "5", "710", "4", "8", "32", f"{32 / sum(sizes.values()):.1%}", "1"
    ]  # fmt: skip


def test_batches_do_not_depend_on_workers_or_packing(tree: Path) -> None:
    module = make(tree)
    module.setup("fit")
    expected = list(epoch(module, 3))
    for workers in (1, 2):
        other = make(tree, f"data.num_workers={workers}")
        other.setup("fit")
        assert equal(list(epoch(other, 3)), expected)
    assert not equal(list(epoch(module, 4)), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restarted_epoch_continues_at_the_same_batch(tree: Path, workers: int) -> None:
    module = make(tree, f"data.num_workers={workers}")
    module.setup("fit")
    loader = module.train_dataloader()
    loader.sampler.set_epoch(1)
    batches = iter(loader)
    whole = [next(batches) for _ in range(3)]
    state = module.state_dict()
    whole += batches

    resumed = make(tree, f"data.num_workers={workers}")
    resumed.load_state_dict(state)  # Lightning restores the state before setup
    resumed.setup("fit")
    again = resumed.train_dataloader()
    again.sampler.set_epoch(1)
    assert len(again) == len(whole)
    assert equal(list(again), whole[3:])
    again.sampler.set_epoch(2)
    assert len(list(again)) == len(whole), "the next epoch is complete"


def test_ranks_share_an_epoch(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = make(tree)
    module.setup("fit")
    keys = []
    for rank in range(2):
        monkeypatch.setattr(module, "_rank", lambda rank=rank: (rank, 2))
        keys.append(list(module.train_dataloader().sampler))
    assert len(keys[0]) == len(keys[1]) == len(module.train_set) // 2
    assert not set(keys[0]) & set(keys[1])


def test_each_rank_needs_a_validation_picture(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = make(tree, "data.sets.BSD400.validation=1", data="bsd400")
    module.setup("fit")
    for world_size in (1, 4):  # one picture, four noises
        monkeypatch.setattr(module, "_rank", lambda size=world_size: (size - 1, size))
        assert len(module.val_dataloader()) == 4 // world_size
    monkeypatch.setattr(module, "_rank", lambda: (0, 5))
    with pytest.raises(ValueError, match="4 validation pictures for 5 processes: hold out more"):
        module.val_dataloader()


def test_missing_data_is_explained(tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match=r"absent: no such folder"):
        make(tmp_path / "absent").setup("fit")
    shutil.copytree(tree / "BSD400", tmp_path / "BSD400")
    (tmp_path / "WED").mkdir()
    message = (
        r"7 of 8 datasets are missing: SIDD \(no folder SIDD or SIDD_Medium_Srgb\).*WED \(no files of it in .*"
        r"data\.allow_missing=true"
    )
    with pytest.raises(ValueError, match=message):
        make(tmp_path).prepare_data()
    module = make(tmp_path, "data.allow_missing=true")
    module.prepare_data()
    module.setup("fit")
    assert [one.name for one in module.train_set.sets] == ["BSD400"]
    assert "LEFT OUT, because missing: WED, SIDD, NIND" in caplog.text
    shutil.rmtree(tmp_path / "BSD400")
    with pytest.raises(ValueError, match="8 of 8 datasets are missing"):
        make(tmp_path, "data.allow_missing=true").prepare_data()


def test_too_small_a_dataset_cannot_hold_out_pictures(tree: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.sets\.BSD400: validation=8 of 4 scenes or pictures"):
        make(tree, data="bsd400").setup("fit")


def deep(path: Path, picture: np.ndarray) -> None:
    cv2.imwrite(str(path), picture.astype(np.uint16) * 257)


def grey(path: Path, picture: np.ndarray) -> None:
    cv2.imwrite(str(path), picture[..., 0])


def transparent(path: Path, picture: np.ndarray) -> None:
    cv2.imwrite(str(path), np.dstack([picture[..., ::-1], np.zeros(picture.shape[:2], np.uint8)]))


@pytest.mark.parametrize("kind", [deep, grey, transparent])
def test_unusual_pictures_become_8_bit_rgb(
    tmp_path: Path, kind: Callable[[Path, np.ndarray], None], photograph: np.ndarray
) -> None:
    kind(tmp_path / "a.png", photograph)
    module = make(tmp_path, "data.sets.photographs.validation=0", data="photographs", crop=32)
    module.prepare_data()
    module.setup("fit")
    sample = module.train_set[0, 0]
    assert sample.clean.shape == (3, 32, 32)
    assert 0 <= sample.clean.min() < sample.clean.max() <= 1


def test_turned_pictures_are_upright_and_match_upright_partners(tmp_path: Path, photograph: np.ndarray) -> None:
    write_picture(tmp_path / "clean" / "a.png", np.rot90(photograph, k=-1))
    write_picture(tmp_path / "degraded" / "a.jpg", photograph)
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)  # orientation 6: turn by 90°
    data = (tmp_path / "degraded" / "a.jpg").read_bytes()
    exif = b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    (tmp_path / "degraded" / "a.jpg").write_bytes(data[:2] + exif + data[2:])
    module = make(tmp_path, "data.sets.pairs.validation=0", data="pairs", crop=48)
    module.prepare_data()
    module.setup("fit")
    sample = module.train_set[0, 0]
    assert (sample.degraded - sample.clean).abs().mean() < 0.02


def break_files(folder: Path, photograph: np.ndarray) -> dict[str, str]:
    """Create one fault of each kind, and return the expected message for each file."""
    for name in ("fine", "cut", "empty", "text", "uneven", "lonely", "small"):
        for part in ("degraded", "clean"):
            write_picture(folder / part / f"{name}.png", photograph)
    cut = folder / "degraded" / "cut.png"
    cut.write_bytes(cut.read_bytes()[:-30])
    (folder / "degraded" / "empty.png").write_bytes(b"")
    (folder / "clean" / "text.png").write_text("not a picture")
    write_picture(folder / "clean" / "uneven.png", photograph[:-1])
    (folder / "clean" / "lonely.png").unlink()
    for part in ("degraded", "clean"):
        write_picture(folder / part / "small.png", photograph[:20, :30])
    return {
        "degraded/cut.png": "not a readable picture",
        "degraded/empty.png": "the file is empty",
        "clean/text.png": "not a readable picture",
        "clean/uneven.png": "is 80×59",
        "degraded/lonely.png": "its partner is missing",
        "degraded/small.png": "is 30×20, smaller than the crop of 32",
    }


def test_settings_of_a_dataset_that_was_not_chosen_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"data\.sets\.WED=\{'repeat': 2\}: choose its dataset \(data=\), too"):
        make(tmp_path, "+data.sets.WED.repeat=2", data="photographs")


def test_broken_files_are_named_before_the_first_step(tmp_path: Path, photograph: np.ndarray) -> None:
    expected = break_files(tmp_path, photograph)
    with pytest.raises(ValueError, match=r"7 files cannot be trained on:[\s\S]*… and 2 more") as caught:
        make(tmp_path, "data.sets.pairs.validation=0", data="pairs", crop=32).prepare_data()
    assert "`moceir prepare check` lists all of them" in str(caught.value)
    assert "lonely.png: its partner is missing" in str(caught.value)
    assert len(expected) == 6


def test_prepare_check_lists_one_fault_of_each_kind(tmp_path: Path, photograph: np.ndarray) -> None:
    from typer.testing import CliRunner

    from moceir.cli.main import app

    expected = break_files(tmp_path, photograph)
    run = CliRunner().invoke(app, ["prepare", "check", str(tmp_path), "--data", "pairs", "--crop", "32"])
    assert run.exit_code == 1
    for name, message in expected.items():
        assert any(name in line and message in line for line in run.stdout.splitlines()), (name, run.stdout)
    row = next(line for line in run.stdout.splitlines() if line.startswith("│ pairs"))
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["pairs", "6", "–", "1", "3", "3", "faulty"]
