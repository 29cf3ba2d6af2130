"""Several processes restore each picture once, even if one of them is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import zip_longest
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import randomise
from lightning import Trainer
from torch.distributed import HashStore  # type: ignore[attr-defined]

from moceir import MoCEIR, load_network, save_network
from moceir.inference.folder import Journal, plan
from moceir.pictures.arrays import write_picture
from moceir.training.predict import Distributor, RestoreFiles


def test_each_number_goes_once_to_a_free_process() -> None:
    store = HashStore()
    slow, quick = (iter(Distributor(10, store)) for _ in range(2))
    assert next(slow) == 0
    assert list(quick) == [*range(1, 10)]
    assert list(slow) == []
    assert list(Distributor(3)) == [0, 1, 2]
    dealt = [number for pair in zip_longest(Distributor(7, HashStore()), Distributor(7)) for number in pair]
    assert sorted(dealt) == sorted([*range(7)] * 2)


@pytest.fixture
def album(tmp_path: Path, photograph: np.ndarray) -> list[str]:
    """Return the arguments that restore forty pictures and a broken one."""
    for index in range(40):
        write_picture(tmp_path / "in" / f"{index:02d}.png", np.roll(photograph, index, axis=1))
    (tmp_path / "in" / "broken.png").write_bytes(b"broken")
    network = MoCEIR(num_blocks=(1, 1), num_decoder_blocks=(1,), num_heads=(1, 2), num_refinement_blocks=1)
    save_network(randomise(network), tmp_path / "network.safetensors")
    return [
        *(f"inputs=[{tmp_path / 'in'}]", f"output={tmp_path / 'out'}", f"weights={tmp_path / 'network.safetensors'}"),
        *("restorer.mac_budget=null", "trainer.devices=2", "trainer.accelerator=cpu"),
    ]


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_a_killed_process_loses_no_picture(album: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "moceir.cli.predict", *album]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        second = out / Journal.PARTS.format("process-1")
        deadline = time.monotonic() + 120
        while not (second.exists() and len(second.read_text().splitlines()) > 3) and time.monotonic() < deadline:
            time.sleep(0.005)
        for process in psutil.Process(run.pid).children():
            process.send_signal(signal.SIGKILL)
        run.communicate(timeout=60)
    assert run.returncode != 0
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("[0-9]*.png")}
    assert done
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1, again.stdout + again.stderr
    assert "broken.png: not a readable picture" in again.stdout
    assert "restored 40 of 41 pictures" in again.stdout
    kept = [name for name, when in done.items() if (out / name).stat().st_mtime_ns == when]
    assert len(kept) >= len(done) - 2  # each process may lose one line of its journal

    network = load_network(tmp_path / "network.safetensors")
    module = RestoreFiles(
        network=network, jobs=plan([str(tmp_path / "in")], tmp_path / "one").jobs, mac_budget=None, threads=1
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, **quiet).predict(module, return_predictions=False)
    assert module.failed == 1
    for index in range(40):
        name = f"{index:02d}.png"
        assert (out / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    entries = [json.loads(line) for path in out.glob("*.jsonl") for line in path.read_text().splitlines()]
    written = [entry["target"] for entry in entries if "sha256" in entry]
    assert {Path(target).name for target in written} == {f"{index:02d}.png" for index in range(40)}
    assert not list(out.glob("*.part"))
