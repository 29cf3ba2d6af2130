"""Signals end the training command with a message of one line and a checkpoint."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import warnings
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import torch
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
    assert lines[-1].endswith(f"stopped by SIGTERM; continue with resume={last}")
    assert "Traceback" not in output.read_text()
    read_checkpoint(last)


def test_slurm_is_asked_to_queue_the_job_again(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``--signal=USR1@90``, Slurm sends SIGUSR1 some time before it kills the job."""
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


def start_together(output: Path, *arguments: object) -> list[int]:
    """Start a run of two processes as an external launcher, such as torchrun, would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    shared |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}

    def train(rank: int) -> None:
        os.environ |= {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        warnings.simplefilter("default")  # the default for users
        train_command(*arguments, "trainer=ddp")

    return [start(partial(train, rank), output.with_suffix(f".{rank}.txt")) for rank in range(2)]


def test_processes_that_get_a_signal_together_are_resumed_exactly(photographs: Path, tmp_path: Path) -> None:
    fast = [*FAST, f"data.root={photographs}", "data.sets.photographs.repeat=8", "optimizer.lr=5e-3"]
    whole, ended = (f"hydra.run.dir={tmp_path / name}" for name in ("whole", "ended"))
    undisturbed = start_together(tmp_path / "whole", *fast, whole)
    assert [wait(process) for process in undisturbed] == [0, 0], (tmp_path / "whole.0.txt").read_text()

    processes = start_together(tmp_path / "first", *fast, ended)
    last = tmp_path / "ended" / "checkpoints" / "last.ckpt"
    wait_for(last.exists, processes[0])
    for process in processes:
        os.kill(process, signal.SIGTERM)
    assert [wait(process) for process in processes] == [128 + signal.SIGTERM] * 2, (
        tmp_path / "first.0.txt"
    ).read_text()
    said = (tmp_path / "first.0.txt").read_text()
    assert said.splitlines()[-1].endswith(f"stopped by SIGTERM; continue with resume={last}")
    assert "Traceback" not in said
    steps = torch.load(tmp_path / "whole" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < read_checkpoint(last)["global_step"] < steps

    resumed = start_together(tmp_path / "second", *fast, ended, f"resume={last}")
    assert [wait(process) for process in resumed] == [0, 0], (tmp_path / "second.0.txt").read_text()
    said = (tmp_path / "second.0.txt").read_text()
    assert "resumable" not in said
    assert "sync_dist" not in said
    one, other = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "ended")
    )
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])


def test_one_process_killed_ends_the_others(photographs: Path, tmp_path: Path) -> None:
    arguments = [*FAST, f"data.root={photographs}", f"paths.runs={tmp_path / 'runs'}", "trainer=ddp"]
    arguments += ["callbacks.last.minutes=60", "trainer.log_every_n_steps=1"]

    def train() -> None:
        # Lightning starts the other process with this program's name.
        sys.modules["__main__"].__spec__ = find_spec("moceir.cli.train")
        train_command(*arguments)

    main = start(train, tmp_path / "output.txt")

    def steps() -> int:
        return sum(path.read_text().count("\n") for path in tmp_path.glob("runs/*/*/metrics.csv"))

    wait_for(lambda: steps() >= 5, main, 120)
    (other,) = (one for one in psutil.Process(main).children() if "moceir.cli.train" in " ".join(one.cmdline()))
    begin = time.monotonic()
    other.kill()
    status = wait(main)
    took = time.monotonic() - begin
    text = (tmp_path / "output.txt").read_text()
    (last,) = tmp_path.glob("runs/*/*/checkpoints/last.ckpt")
    assert read_checkpoint(last)["global_step"] >= 2, "there is a row for each step, and one for its rate"
    assert f"another process of this run is gone; continue with resume={last}" in text
    assert status == 2, text
    assert took < 30
    assert psutil.wait_procs([other], timeout=30)[0]
