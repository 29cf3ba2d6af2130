"""Checkpoints of training runs: written whole or not at all, kept, checked when read, and when they are written."""

from __future__ import annotations

import copy
import io
import logging
import os
import shutil
import signal
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from moceir.inference.weights import not_finite
from moceir.pictures.files import write_atomically
from moceir.training.signals import StopSignals

log = logging.getLogger(__name__)

LAST = "last.ckpt"
PREVIOUS = ".previous.ckpt"
"""What the name of the file that was there before ends with, as in last.previous.ckpt."""
_PATIENCE = 10
"""Seconds in which processes that compute together reach the end of a step; hosts wait 30 before they kill."""
_TIME_TO_WRITE = 30
"""Seconds from another process's end until this one is killed, if it has not noticed and ended by itself."""
_PARTS = {"state_dict", "loops", "optimizer_states", "network_config"}


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, then moves it there, and keeps the one that was there before.

    At any moment, the machine's sudden death included, a whole one of the two is there. One that cannot be written, as
    on a full disk, does not end the run: the next is tried, and the one before stays.

    Attributes:
        unwritten: files whose last writing failed -> why.
    """

    def __init__(self) -> None:
        self.unwritten: dict[Path, str] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        kept = path.with_name(f".{path.name}.kept")
        try:
            if path.exists():
                _link(path, kept)
            write_atomically(path, content.getvalue(), durable=True)
            if kept.exists():
                kept.replace(path.with_name(path.stem + PREVIOUS))
        except OSError as error:
            self.unwritten[path] = str(error.strerror)
            kept.unlink(missing_ok=True)
            log.error(
                "%s: could not be written (%s); training goes on, and the file that was there stays. Make room: the "
                "next checkpoint is tried again",
                path,
                error.strerror,
            )
        else:
            self.unwritten.pop(path, None)


def _link(path: Path, other: Path) -> None:
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:  # not every file system has links
        shutil.copyfile(path, other)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint that a run can go on from, every byte of it checked; nothing in it is executed.

    Raises:
        ValueError: when the file is missing, cut, damaged or something else, or its weights are not finite.
    """
    remedy = "resume=latest takes the newest that is whole"
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint; {remedy}")
    if not path.stat().st_size:
        raise ValueError(f"{path}: an empty file, not a checkpoint; {remedy}")
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except Exception as error:  # whatever a damaged table of contents leads to
        raise ValueError(f"{path}: cut short, or not a checkpoint ({error}); {remedy}") from error
    if damaged:
        raise ValueError(f"{path}: damaged ({damaged} in it is not what was written); {remedy}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader of untrusted files raises whatever it stumbles over
        raise ValueError(f"{path}: not a checkpoint of this package, or it holds objects besides tensors") from error
    lacking = _PARTS - checkpoint.keys() if isinstance(checkpoint, dict) else _PARTS
    if lacking:
        raise ValueError(
            f"{path}: not a checkpoint of a training run (no {', '.join(sorted(lacking))}); to start from weights "
            "give init_from= instead of resume="
        )
    broken = not_finite(checkpoint["state_dict"])
    if broken:
        raise ValueError(f"{path}: {broken} holds NaN or infinity, so the run had diverged; {remedy}")
    return checkpoint


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt`` such that a run goes on exactly where it was, whatever ended it.

    It is written after each epoch, behind its validation; before the last step of an epoch that is validated; every
    few minutes; and when an exception or a signal ends the run: then as it was after the last whole step. A run that is
    killed goes on from the last one written. Weights that are not finite are never written.

    Args:
        folder: where.
        minutes: from one to the next within an epoch.
    """

    def __init__(self, *, folder: str, minutes: float) -> None:
        self.path = Path(folder) / LAST
        self.seconds = 60 * minutes
        self.signals = StopSignals()
        self._written = time.monotonic()
        self._step = 0
        self._progress: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            for rest in self.path.parent.glob(".*.ckpt.*"):  # of a run that was killed as it wrote
                rest.unlink(missing_ok=True)
        for thread in threading.enumerate():
            if isinstance(thread, _ChildProcessObserver):
                _give_time(thread)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._written = time.monotonic()
        self._step = trainer.global_step
        self.signals.patience = _PATIENCE if trainer.world_size > 1 else 0
        self.signals.install()  # Lightning has just installed its own, after which a run ends with status 0

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.signals.hold()  # until all that a step changes has changed

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped, self._step = trainer.global_step > self._step, trainer.global_step
        left = trainer.num_training_batches - batch_idx - 1
        every = trainer.check_val_every_n_epoch
        validated = every is not None and (trainer.current_epoch + 1) % every == 0
        if stepped:  # behind the last batch a run would go on without the validation
            self._progress = _progress(trainer) if left else None
        due = time.monotonic() - self._written >= self.seconds
        due |= validated and left <= trainer.accumulate_grad_batches
        # Processes that compute together write together, and end together.
        stop = trainer.strategy.reduce_boolean_decision(self.signals.received is not None, all=False)
        due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if left or validated:  # else the epoch ends at once
            if stop:
                self.signals.stop()  # on_exception writes
            if stepped and left and due:
                self._save(trainer)
            self.signals.release()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.hold()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._progress = None
        self._save(trainer)
        self.signals.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.signals.hold()
        # During a validation the model holds averaged weights; the file was written one step before.
        if self._progress and self._progress["global_step"] == trainer.global_step and not trainer.validating:
            self._save(trainer, self._progress)
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            launcher.kill(signal.SIGKILL)  # the processes that this one started wait for it

    def _save(self, trainer: Trainer, progress: dict[str, Any] | None = None) -> None:
        broken = not_finite(trainer.lightning_module.state_dict())
        if broken:
            log.warning("step %d: %s is not finite; %s stays as it was", trainer.global_step, broken, self.path)
        elif progress is None:
            trainer.save_checkpoint(self.path)
        else:  # without waiting for other processes, which may be gone
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            trainer.strategy.save_checkpoint({**checkpoint, **progress}, self.path)
        self._written = time.monotonic()


def _give_time(observer: _ChildProcessObserver) -> None:
    """Let this process, which is killed when one that it started is gone, write its checkpoint before."""
    kill = observer._terminate_all

    def wait_and_kill() -> None:
        time.sleep(_TIME_TO_WRITE)
        kill()

    observer._terminate_all = wait_and_kill  # type: ignore[method-assign]


def _progress(trainer: Trainer) -> dict[str, Any]:
    """How far a run is: what a batch that is broken off has changed already, when nothing else has."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    progress = {
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "loops": trainer._checkpoint_connector._get_loops_state_dict(),
        type(data).__qualname__: data.state_dict(),
    }
    return copy.deepcopy(progress)
