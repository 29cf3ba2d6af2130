"""Writes the examples of docs/extending.md as the page describes, and trains with them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
USE = """
import sys
from pathlib import Path
import tiny, torch
import moceir
from moceir.config import build
from moceir.data.datasets import PairSet
from moceir.data.degradations import GaussianNoise
from moceir.data.sources import CleanPictures
from moceir.engine.schedule import Engine
from moceir.inference.evaluate import evaluate

weights, folder = sys.argv[1:]
network = moceir.load_network(weights)
engine = Engine(network, threads=2)
torch.manual_seed(0)
picture = torch.rand(1, 3, 300, 200)
strips = engine.restore_and_route(picture).restored
box = build("network", [f"hydra.searchpath=[file://{folder}/mine/conf]", "network=box"]).eval()
for parameter in box.parameters():  # so that the mixer, too, has an effect well above rounding
    torch.nn.init.normal_(parameter, std=max(1, parameter[0].numel()) ** -0.5)
print({type(expert.mixer).__name__ for block in box.decoder for one in block for expert in one.experts})
with torch.no_grad():
    whole, boxed = network(picture), box(picture)
    strip_by_strip = Engine(box, threads=2).restore_and_route(picture).restored
    print(bool((strip_by_strip - boxed).abs().max() < 1e-5 * boxed.abs().max()))
source = CleanPictures(folders=["holidays"])
sets = [PairSet("holidays", source.find(source.locate(Path(folder))).pairs, "clean")]
scores = list(evaluate(engine, sets, {"gaussian_25": GaussianNoise(sigmas=[25])}))
print(type(network).__name__, tuple(strips.shape), bool((strips - whole).abs().max() < 1e-5))
print(len(scores), all(score.psnr > 10 for score in scores))
print(moceir.complexity.count_macs(network).totals()["maximum"].conv_matmul == network.route_costs.base)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    written = re.findall(r"^`(mine/\S+)`\n\n```\w+\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(written) == 11
    for name, content in written:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'mine'}"}


def test_every_example_trains_and_its_network_restores_is_evaluated_and_counted(
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
    used = subprocess.run(
        [sys.executable, "-c", USE, weights, tmp_path], env=environment, capture_output=True, text=True
    )
    # It restores whole and in strips, is evaluated, and counted.
    assert used.stdout == "{'BoxMixer'}\nTrue\nTiny (1, 3, 300, 200) True\n5 True\nTrue\n", used.stdout + used.stderr
