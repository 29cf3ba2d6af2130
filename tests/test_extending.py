"""Writes the examples of docs/extending.md as the page describes, and trains with them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESTORE = """
import sys, numpy as np, tiny, moceir
network = moceir.load_network(sys.argv[1])
print(type(network).__name__, moceir.Restorer(network).restore(np.zeros((40, 50, 3), np.uint8)).shape)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    written = re.findall(r"^`(mine/\S+)`\n\n```\w+\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(written) == 9
    for name, content in written:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'mine'}"}


def test_every_example_trains_and_its_network_restores(
    photographs: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    photographs.rename(tmp_path / "holidays")
    arguments = [
        f"hydra.searchpath=[file://{tmp_path}/mine/conf]", "debug=quick", "loss=sharp", "degradation=salt",
        "data=holidays", "logger=lines", "network=tiny", f"data.root={tmp_path}", f"paths.runs={tmp_path / 'runs'}",
        "data.crop=32", "trainer.log_every_n_steps=1",
    ]  # fmt: skip
    command = [sys.executable, "-m", "moceir.cli.train", *arguments]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    (folder,) = (tmp_path / "runs").glob("*/*")
    lines = (folder / "lines.txt").read_text()
    assert "train/sharpness" in lines
    assert "val/psnr/salt" in lines
    weights = folder / "network.safetensors"
    restored = subprocess.run(
        [sys.executable, "-c", RESTORE, weights], env=environment, capture_output=True, text=True, check=True
    )
    assert restored.stdout == "Tiny (40, 50, 3)\n"
