"""Invalid settings are reported before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import forked, train_command
from test_training import run


@pytest.mark.parametrize(
    ("setting", "needed"),
    [
        ("data.crop=abc", "a whole number of at least 1"),
        ("data.crop=-5", "a whole number of at least 1"),
        ("data.crop=1.5", "a whole number of at least 1"),
        ("data.batch_size=0", "a whole number of at least 1"),
        ("data.num_workers=null", "a whole number of at least 0"),
        ("data.sets.photographs.repeat=0", "a whole number of at least 1"),
        ("optimizer.lr=fast", "a number of at least 0"),
        ("optimizer.lr=nan", "a number of at least 0"),
        ("loss.weights.l1=-1", "a number of at least 0"),
        ("trainer.max_epochs=0", "a whole number of at least 1"),
        ("seed=-1", "a whole number from 0 to 4294967295"),
        ("callbacks.average.decay=2", "a number from 0 to 1"),
        ("train_only=output", "a list of names of parameters, or null"),
    ],
)
def test_a_setting_out_of_range_is_named(tmp_path: Path, setting: str, needed: str) -> None:
    with pytest.raises(ValueError, match=f"^{setting}: {needed} is needed$"):
        run(tmp_path, "data.root=/nowhere", setting)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["data.crop=abc"], "data.crop=abc: a whole number of at least 1 is needed"),
        (["network.dim=7"], "network: dim must be even and at least 2, got 7"),
        (["trainer.precision=half"], "trainer: "),
        (["optimizer.betas=[2,3]"], "optimizer: Invalid beta parameter at index 0: 2"),
        (
            ["paths.runs=FILE/runs"],
            "error: paths.runs: FILE/runs/stage1: runs cannot be written there (Not a directory",
        ),
        (["-m", "paths.runs=FILE/runs", "seed=1,2"], "error: paths.runs: FILE/runs/stage1_sweep: runs cannot be"),
    ],
)
def test_the_command_says_it_in_one_line(tmp_path: Path, arguments: list[str], line: str) -> None:
    (tmp_path / "file").touch()
    output = tmp_path / "output.txt"
    file = str(tmp_path / "file")
    arguments = [*(argument.replace("FILE", file) for argument in arguments), "loss=l1", "data=photographs"]
    if "paths.runs" not in line:
        arguments.append(f"paths.runs={tmp_path / 'runs'}")
    assert forked(lambda: train_command(*arguments), output) == 2, output.read_text()
    text = output.read_text()
    assert "Traceback" not in text
    assert sum("ERROR" in one or "error:" in one for one in text.splitlines()) == 1
    assert "the mixture" not in text, "data are not read first"
    assert line.replace("FILE", file) in text
