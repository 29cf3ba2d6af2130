from __future__ import annotations

import base64
import csv
import importlib
import json
import math
import os
import signal
from pathlib import Path

import pytest
import yaml
from processes import forked, train_command
from test_training import PHOTOGRAPHS, SMALL
from typer.testing import CliRunner

from moceir.cli.main import app
from moceir.pictures.arrays import read_picture
from moceir.training.checkpoints import LastCheckpoint
from moceir.training.sweep import SUMMARY, read_sweep


@pytest.fixture
def multirun(tmp_path: Path) -> Path:
    """Make a multirun of two weights × two expert counts, whose last run was killed."""
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
    assert read_picture(multirun / "sweep.png").std() > 0
    page = (multirun / "sweep.html").read_text()
    assert "4 runs, 3 with a result. The best reached 32.000 dB, the worst 30.000 dB." in page
    assert page.index("<td>2</td><td>0.5</td><td>2</td>") < page.index("<td class=number>no result</td>")
    assert base64.b64encode((multirun / "sweep.png").read_bytes()).decode() in page


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no runs of a multirun"):
        read_sweep(tmp_path)


def test_a_killed_multirun_continues_with_the_missing_runs(photographs: Path, tmp_path: Path) -> None:
    """The first run has finished; the second has completed one epoch."""
    command = ["-m", *SMALL, *PHOTOGRAPHS, "debug=quick", "loss=l1", "data.crop=32", "trainer.max_epochs=2"]
    command += ["seed=0,1", f"data.root={photographs}", "resume=latest", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    epochs = tmp_path / "epochs"

    def train(kill: bool) -> None:
        save = LastCheckpoint.on_train_epoch_end

        def saving(self: LastCheckpoint, *arguments: object) -> None:
            save(self, *arguments)  # type: ignore[arg-type]
            with epochs.open("a") as file:
                file.write("x")
            if kill and epochs.stat().st_size == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        LastCheckpoint.on_train_epoch_end = saving  # type: ignore[method-assign]
        train_command(*command)

    output = tmp_path / "output.txt"
    assert forked(lambda: train(True), output) == -signal.SIGKILL, output.read_text()
    before = (tmp_path / "sweep" / "0" / "network.safetensors").stat().st_mtime_ns
    assert forked(lambda: train(False), output) == 0, output.read_text()
    assert epochs.stat().st_size == 4, "no epoch twice"
    assert (tmp_path / "sweep" / "0" / "network.safetensors").stat().st_mtime_ns == before
    assert "0: this run has already finished" in output.read_text()
    assert not any(math.isnan(trial.psnr) for trial in read_sweep(tmp_path / "sweep"))
    command[command.index("seed=0,1")] = "seed=2,3"
    assert forked(lambda: train(False), output) == 2
    assert "holds a run with" in output.read_text().splitlines()[-1]


def test_a_search_is_a_function_of_its_seed_and_finds_the_best(tmp_path: Path) -> None:
    pytest.importorskip("optuna", "4")

    def search(folder: str) -> None:
        module = importlib.import_module("moceir.cli.train")
        module.train = lambda config: -abs(config.loss.weights.frequency - 0.2)  # type: ignore[attr-defined]
        train_command("-m", "sweep=optuna", "hydra.sweeper.n_trials=6", f"hydra.sweep.dir={tmp_path / folder}")

    tried = []
    for folder in "ab":
        assert forked(lambda folder=folder: search(folder), tmp_path / "output.txt") == 0, (
            tmp_path / "output.txt"
        ).read_text()
        runs = sorted((tmp_path / folder).glob("*/.hydra/overrides.yaml"), key=lambda path: int(path.parts[-3]))
        tried.append([yaml.safe_load(path.read_text()) for path in runs])
    assert tried[0] == tried[1]
    assert len(tried[0]) == 6
    frequencies = [float(dict(one.split("=") for one in run)["loss.weights.frequency"]) for run in tried[0]]
    assert all(0 <= value <= 0.3 for value in frequencies)
    assert min(abs(value - 0.2) for value in frequencies) < 0.05
