"""Runs a short version of ``make soak``, which checks that the soak test itself works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_soak(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "soak.py"
    arguments = ["--restores", "30", "--kills", "2", "--pictures", "12", "--frames", "20", "--folder", str(tmp_path)]
    run = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    training, folder, clip, restoring = map(json.loads, run.stdout.splitlines())
    assert sum(training["training"]["ended"].values()) == 2
    assert folder["folder"]["files_identical"] == 12
    assert clip["clip"]["frames"] == 20
    assert restoring["restoring"]["restores"] == 30
