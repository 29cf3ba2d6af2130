"""Checkpoints of training runs: writes them atomically, checks them when read, and decides when to write them."""

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
"""Suffix of the previous checkpoint's name, as in last.previous.ckpt."""
_PATIENCE = 10
"""Seconds that cooperating processes get to reach the end of a step. Hosts wait 30 seconds before they kill."""
_TIME_TO_WRITE = 30
"""Seconds between the death of another process and the kill of this one, if this one has not ended by itself."""
_PARTS = {"state_dict", "loops", "optimizer_states", "network_config"}


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file, moves it to its path, and keeps the previous checkpoint.

    At any moment, even if the machine crashes, at least one of the two is complete. If a checkpoint cannot be written,
    for example because the disk is full, the run continues: the previous checkpoint is kept, and the next one is tried.

    Attributes:
        unwritten: path of each checkpoint whose last write failed -> reason.
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
                "%s: could not be written (%s); training continues, and the previous file is kept. Make room before "
                "the next checkpoint is written",
                path,
                error.strerror,
            )
        else:
            self.unwritten.pop(path, None)


def _link(path: Path, other: Path) -> None:
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:  # not every file system supports hard links
        shutil.copyfile(path, other)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint from which a run can continue. Checks every byte, and executes nothing in the file.

    Raises:
        ValueError: when the file is missing, truncated, damaged or not a checkpoint, or its weights are not finite.
    """
    remedy = "resume=latest uses the newest intact checkpoint"
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint; {remedy}")
    if not path.stat().st_size:
        raise ValueError(f"{path}: an empty file, not a checkpoint; {remedy}")
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except Exception as error:  # a damaged table of contents can raise any exception
        raise ValueError(f"{path}: cut short, or not a checkpoint ({error}); {remedy}") from error
    if damaged:
        raise ValueError(f"{path}: damaged (wrong checksum of {damaged}); {remedy}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load can raise any exception for an untrusted file
        raise ValueError(f"{path}: not a checkpoint of this package, or it holds objects besides tensors") from error
    lacking = _PARTS - checkpoint.keys() if isinstance(checkpoint, dict) else _PARTS
    if lacking:
        raise ValueError(
            f"{path}: not a checkpoint of a training run (no {', '.join(sorted(lacking))}); to start from weights, "
            "give init_from= instead of resume="
        )
    broken = not_finite(checkpoint["state_dict"])
    if broken:
        raise ValueError(f"{path}: {broken} holds NaN or infinity, so the run has diverged; {remedy}")
    return checkpoint


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` so that a run can continue exactly where it ended, for any cause.

    It writes the checkpoint

    - after each epoch and its validation,
    - before the last step of an epoch that ends with a validation,
    - every few minutes, and
    - when an exception or a signal ends the run; this checkpoint has the state after the last complete step.

    A run that is killed continues from the last checkpoint that was written. Weights that are not finite are never
    written.

    Args:
        folder: folder for ``last.ckpt``.
        minutes: interval between checkpoints within an epoch.
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
            for rest in self.path.parent.glob(".*.ckpt.*"):  # leftovers of a run that was killed during a write
                rest.unlink(missing_ok=True)
        for thread in threading.enumerate():
            if isinstance(thread, _ChildProcessObserver):
                _give_time(thread)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._written = time.monotonic()
        self._step = trainer.global_step
        self.signals.patience = _PATIENCE if trainer.world_size > 1 else 0
        self.signals.install()  # replaces Lightning's handlers, with which a run would end with status 0

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.signals.hold()  # until the step has updated the entire state

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped, self._step = trainer.global_step > self._step, trainer.global_step
        left = trainer.num_training_batches - batch_idx - 1
        every = trainer.check_val_every_n_epoch
        validated = every is not None and (trainer.current_epoch + 1) % every == 0
        if stepped:  # a run that resumes after the last batch would skip the validation
            self._progress = _progress(trainer) if left else None
        due = time.monotonic() - self._written >= self.seconds
        due |= validated and left <= trainer.accumulate_grad_batches
        # Cooperating processes must write and end at the same step.
        stop = trainer.strategy.reduce_boolean_decision(self.signals.received is not None, all=False)
        due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if left or validated:  # otherwise, the epoch ends immediately
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
        # During a validation, the model holds averaged weights, and the file was already written one step earlier.
        if self._progress and self._progress["global_step"] == trainer.global_step and not trainer.validating:
            self._save(trainer, self._progress)
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            launcher.kill(signal.SIGKILL)  # otherwise, the child processes would wait for this one

    def _save(self, trainer: Trainer, progress: dict[str, Any] | None = None) -> None:
        broken = not_finite(trainer.lightning_module.state_dict())
        if broken:
            log.warning("step %d: %s is not finite; %s stays as it was", trainer.global_step, broken, self.path)
        elif progress is None:
            trainer.save_checkpoint(self.path)
        else:  # do not wait for other processes, which may have ended
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            trainer.strategy.save_checkpoint({**checkpoint, **progress}, self.path)
        self._written = time.monotonic()


def _give_time(observer: _ChildProcessObserver) -> None:
    """Delay Lightning's kill of this process after the death of a child process, so that it can write a checkpoint."""
    kill = observer._terminate_all

    def wait_and_kill() -> None:
        time.sleep(_TIME_TO_WRITE)
        kill()

    observer._terminate_all = wait_and_kill  # type: ignore[method-assign]


def _progress(trainer: Trainer) -> dict[str, Any]:
    """Copy the run's progress, which the next batch advances before it changes anything else."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    progress = {
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "loops": trainer._checkpoint_connector._get_loops_state_dict(),
        type(data).__qualname__: data.state_dict(),
    }
    return copy.deepcopy(progress)
