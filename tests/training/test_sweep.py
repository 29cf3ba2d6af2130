from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from moceir.cli.main import app
from moceir.pictures.arrays import read_image
from moceir.training.sweep import SUMMARY, read_sweep


@pytest.fixture
def multirun(tmp_path: Path) -> Path:
    """Two weights × two expert counts; the last run was killed."""
    grid = [(weight, experts) for weight in ("0", "0.5") for experts in ("2", "10")]
    for number, (weight, experts) in enumerate(grid):
        hydra = tmp_path / str(number) / ".hydra"
        hydra.mkdir(parents=True)
        overrides = ["stage=stage1", f"loss.weights.perceptual={weight}", f"+network.num_experts={experts}"]
        (hydra / "overrides.yaml").write_text(yaml.safe_dump(overrides))
        if number < 3:
            summary = {"best_psnr": 30 + number, "last": {"val/gmacs": 29.5}}
            (tmp_path / str(number) / SUMMARY).write_text(json.dumps(summary))
    return tmp_path


def test_runs_are_ranked_by_what_was_swept(multirun: Path) -> None:
    trials = read_sweep(multirun)
    assert [trial.name for trial in trials] == ["2", "1", "0", "3"]
    assert trials[0].settings == {"loss.weights.perceptual": "0.5", "network.num_experts": "2"}
    assert trials[0].psnr == 32
    assert math.isnan(trials[-1].psnr)


def test_the_command_writes_a_table_and_a_plot(multirun: Path) -> None:
    run = CliRunner().invoke(app, ["sweep", str(multirun)])
    assert run.exit_code == 0
    assert "no result" in run.stdout
    rows = list(csv.reader((multirun / "sweep.csv").read_text().splitlines()))
    assert rows[0] == ["run", "loss.weights.perceptual", "network.num_experts", "psnr", "gmacs"]
    assert rows[1] == ["2", "0.5", "2", "32", "29.5"]
    assert read_image(multirun / "sweep.png").std() > 0


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run of a multirun"):
        read_sweep(tmp_path)
