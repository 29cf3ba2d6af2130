"""Signals end the training command with one line and a checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from processes import forked, start, train_command, wait, wait_for
from test_training import PHOTOGRAPHS, SMALL

from moceir.training.checkpoints import read_checkpoint
from moceir.training.signals import Stopped, StopSignals

FAST = [*SMALL, *PHOTOGRAPHS, "debug=quick", "loss=l1", "data.crop=32", "callbacks.last.minutes=0"]
FAST += ["data.sets.photographs.repeat=400", "~callbacks.progress"]


def test_a_signal_waits_while_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)}
    try:
        signals = StopSignals()
        signals.install()
        signals.hold()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="SIGTERM"):
            signals.release()
        os.kill(os.getpid(), signal.SIGTERM)  # only the first counts

        signals = StopSignals()
        signals.install()
        signals.patience = 0.05
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.received == signal.SIGUSR1
        with pytest.raises(Stopped, match="SIGUSR1"):
            signal.pause()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_terminated_run_saves_and_says_so(photographs: Path, tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    process = start(lambda: train_command(*FAST, f"data.root={photographs}", f"paths.runs={tmp_path / 'runs'}"), output)
    wait_for(lambda: bool(list(tmp_path.glob("runs/*/*/checkpoints/last.ckpt"))), process)
    os.kill(process, signal.SIGTERM)
    assert wait(process) == 128 + signal.SIGTERM, output.read_text()
    (last,) = tmp_path.glob("runs/*/*/checkpoints/last.ckpt")
    lines = output.read_text().splitlines()
    assert lines[-1].endswith(f"stopped by SIGTERM; go on with resume={last}")
    assert "Traceback" not in output.read_text()
    read_checkpoint(last)


def test_slurm_is_asked_to_queue_the_job_again(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``--signal=USR1@90`` Slurm sends it some time before it kills."""
    output = tmp_path / "output.txt"
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    job = {"JOB_ID": "78", "ARRAY_JOB_ID": "77", "ARRAY_TASK_ID": "3", "JOB_NAME": "train", "NTASKS": "1"}
    for name, value in {**job, "PROCID": "0", "LOCALID": "0", "NODEID": "0", "NTASKS_PER_NODE": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    arguments = [*FAST, f"data.root={photographs}", f"paths.runs={tmp_path / 'runs'}", "resume=latest"]
    process = start(lambda: train_command(*arguments), output)
    wait_for(lambda: bool(list(tmp_path.glob("runs/*/*/checkpoints/last.ckpt"))), process)
    os.kill(process, signal.SIGUSR1)
    assert wait(process) == 128 + signal.SIGUSR1, output.read_text()
    assert (tmp_path / "asked").read_text().strip() == "requeue 77_3"
    assert output.read_text().splitlines()[-1].endswith("last.ckpt (the job is queued again)")
    assert not list(tmp_path.rglob("hpc_ckpt*"))


def test_a_signal_before_the_first_step(photographs: Path, tmp_path: Path) -> None:
    def begin() -> None:
        from moceir.data.datamodule import RestorationDataModule

        RestorationDataModule.prepare_data = lambda _: os.kill(os.getpid(), signal.SIGTERM)  # type: ignore[assignment]
        train_command(*FAST, f"data.root={photographs}", f"paths.runs={tmp_path / 'runs'}")

    output = tmp_path / "output.txt"
    assert forked(begin, output) == 128 + signal.SIGTERM
    assert output.read_text().splitlines()[-1].endswith("stopped by SIGTERM")


def test_one_process_killed_ends_the_others(photographs: Path, tmp_path: Path) -> None:
    arguments = [*FAST, f"data.root={photographs}", f"paths.runs={tmp_path / 'runs'}", "trainer=ddp"]
    arguments += ["callbacks.last.minutes=60", "trainer.log_every_n_steps=1"]
    with (tmp_path / "output.txt").open("w") as output:
        command = [sys.executable, "-m", "moceir.cli.train", *arguments]
        main = subprocess.Popen(command, stdout=output, stderr=output)

    def steps() -> int:
        return sum(path.read_text().count("\n") for path in tmp_path.glob("runs/*/*/metrics.csv"))

    try:
        wait_for(lambda: steps() >= 5, main.pid, 120)
        (other,) = (one for one in psutil.Process(main.pid).children() if "moceir.cli.train" in " ".join(one.cmdline()))
        start = time.monotonic()
        other.kill()
        status = main.wait(60)
        took = time.monotonic() - start
    finally:
        main.kill()
    text = (tmp_path / "output.txt").read_text()
    (last,) = tmp_path.glob("runs/*/*/checkpoints/last.ckpt")
    assert read_checkpoint(last)["global_step"] >= 2, "there is a row for each step, and one for its rate"
    assert f"another process of this run is gone; go on with resume={last}" in text
    assert status == 2, text
    assert took < 30
    assert psutil.wait_procs([other], timeout=30)[0]
