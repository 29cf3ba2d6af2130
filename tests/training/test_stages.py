from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from moceir.config import config_dir
from moceir.training.stages import previous_weights


def test_the_latest_finished_run_is_taken(tmp_path: Path) -> None:
    for time in ("2026-01-02_00", "2026-01-10_00", "2026-01-09_00", "2026-02-01_00"):
        (tmp_path / "stage1" / time / "checkpoints").mkdir(parents=True)
        if not time.startswith("2026-02"):  # the latest was killed
            (tmp_path / "stage1" / time / "network.safetensors").touch()
    assert previous_weights(tmp_path, "stage1").parent.name == "2026-01-10_00"


def test_a_stage_that_has_not_been_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"stage1: no finished run of stage1.*`make train stage=1` first, or give init_"
    ):
        previous_weights(tmp_path, "stage1")
    checkpoint = tmp_path / "stage1" / "2026" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    with pytest.raises(ValueError, match=f"finish it with resume={checkpoint}"):
        previous_weights(tmp_path, "stage1")
    with pytest.raises(ValueError, match=r"run `make train args=experiment=release` first"):
        previous_weights(tmp_path, "release")


def test_the_documents_schedule() -> None:
    """Section 5.1 states crop, batch, learning rate and epochs."""
    schedule = []
    with initialize_config_dir(config_dir(), version_base="1.3"):
        for number in (1, 2, 3):
            config = compose("train", [f"stage=stage{number}"])
            schedule.append((config.data.crop, config.data.batch_size, config.optimizer.lr, config.trainer.max_epochs))
            assert config.previous_stage == (None if number == 1 else f"stage{number - 1}")
            assert config.optimizer.betas == [0.9, 0.999]
    assert schedule == [(128, 32, 2e-4, 100), (192, 16, 2e-5, 20), (256, 8, 1e-6, 10)]
