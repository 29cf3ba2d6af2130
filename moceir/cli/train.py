"""``python -m moceir.cli.train``: one training run, configured by Hydra (see ``conf/``)."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
from pathlib import Path

import torch.distributed as dist

from moceir.extras import remedy

try:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import InstantiationException
    from hydra.types import RunMode
    from hydra.utils import instantiate
    from lightning import LightningModule, Trainer, seed_everything
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import ModelCheckpoint
    from omegaconf import DictConfig
except ImportError as error:
    raise ImportError(remedy("moceir.cli.train", str(error.name), "train")) from error

from moceir.config import config_dir
from moceir.data.datamodule import RestorationDataModule
from moceir.engine.allocator import keep_freed_memory
from moceir.inference.weights import load_network, load_weights, save_network
from moceir.networks.unet import UNet
from moceir.pictures.files import write_atomically
from moceir.training.checkpoints import LAST, CheckpointFiles, read_checkpoint
from moceir.training.module import RestorationModule
from moceir.training.optim import freeze_all_but
from moceir.training.settings import check_settings
from moceir.training.signals import Stopped, StopSignals, requeue
from moceir.training.stages import newest_whole, previous_weights, unfinished
from moceir.training.sweep import SUMMARY, finished

log = logging.getLogger(__name__)


def train(config: DictConfig) -> float:
    """Train a network and export its best weights.

    Args:
        config: a composed ``conf/train.yaml``.

    Returns:
        The best mean validation PSNR in dB, which sweeps maximise; NaN when there was no validation.

    Raises:
        ValueError: when a setting is out of range, ``init_from`` and ``resume`` are both given, the initial weights
            are missing or belong to another network, data are missing or broken, the loss is not finite, a checkpoint
            could not be written, or another process of the run has ended.
        Stopped: when a signal asks the run to end; its checkpoint is written first.
    """
    check_settings(config)
    if config.init_from and config.resume:
        raise ValueError("give init_from (start from weights) or resume (continue a run), not both")
    if config.resume == "latest":
        if HydraConfig.get().mode is RunMode.MULTIRUN:  # repeated in its folder: each run resumes in its own
            score = finished(Path(config.paths.output), _overrides())
            if score is not None:
                return score
            checkpoint = newest_whole(Path(config.paths.output) / "checkpoints")
        else:
            checkpoint = unfinished(Path(config.paths.runs), config.name)
        config.resume = None if checkpoint is None else str(checkpoint)
    if config.resume:  # the best checkpoint so far still competes
        config.paths.checkpoints = str(Path(config.resume).parent)
    seed_everything(config.seed, workers=True)
    network: UNet = instantiate(config.network)
    start = config.init_from
    if config.previous_stage and not (config.init_from or config.resume):
        start = previous_weights(Path(config.paths.runs), config.previous_stage)
    if start:
        _load(network, str(start))
    if config.resume:
        _match(network, Path(config.resume))
    if config.train_only is not None:
        freeze_all_but(network, config.train_only)
    optimizer = instantiate(config.optimizer)
    try:
        optimizer(network.parameters())
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer: {error}") from error
    data: RestorationDataModule = instantiate(config.data)
    module = RestorationModule(
        network=network,
        losses=instantiate(config.loss),
        optimizer=optimizer,
        warmup_steps=config.warmup_steps,
        decay=config.decay,
        seed=config.seed,
        teacher=instantiate(config.teacher),
        compile=config.compile,
        output=Path(config.paths.output),
    )
    callbacks = [instantiate(callback) for callback in config.callbacks.values() if callback]
    loggers = [instantiate(logger) for logger in config.logger.values() if logger]
    files = CheckpointFiles()
    trainer: Trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers, plugins=[files])
    _fit(trainer, module, data, config)
    for path, reason in files.unwritten.items():
        raise ValueError(_then(f"{path}: could not be written ({reason}); make room", config))

    best: ModelCheckpoint | None = next((one for one in callbacks if getattr(one, "monitor", None)), None)
    score = float("nan") if best is None or best.best_model_score is None else float(best.best_model_score)
    if trainer.is_global_zero:
        # Without validation no checkpoint is the best, so export the last averaged weights.
        trained = load_network((best and best.best_model_path) or Path(config.paths.checkpoints) / LAST)
        exported = Path(config.paths.output) / "network.safetensors"
        save_network(trained, exported)
        last = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        summary = {"best_psnr": None if math.isnan(score) else score, "last": last, "overrides": _overrides()}
        write_atomically(Path(config.paths.output) / SUMMARY, json.dumps(summary, indent=1).encode())
        log.info("best val/psnr %.3f dB; weights in %s", score, exported)
    return score


def _overrides() -> list[str]:
    """List this run's overrides, except ``resume``."""
    return [override for override in HydraConfig.get().overrides.task if not override.startswith("resume=")]


def _load(network: UNet, weights: str) -> None:
    start = load_weights(weights)
    try:
        network.start_from(start)
    except ValueError as error:
        raise ValueError(f"{weights}: {error}") from error
    log.info("starting from %s", weights)


def _match(network: UNet, path: Path) -> None:
    theirs = read_checkpoint(path)["network_config"]
    if theirs != network.config:
        raise ValueError(
            f"{path}: its network, {theirs}, is another than this run's, {network.config}; give the same overrides"
        )


def _fit(trainer: Trainer, module: LightningModule, data: RestorationDataModule, config: DictConfig) -> None:
    try:
        trainer.fit(module, datamodule=data, ckpt_path=config.resume, weights_only=True)
    except (ValueError, OSError) as error:
        reason = str(error)
        if reason.startswith("Caught "):  # from a loader's process; the message contains its traceback
            reason = reason.strip().rpartition("\n")[2].partition(": ")[2]
        raise ValueError(_then(reason, config)) from error
    except RuntimeError as error:
        gone = "Connection closed by peer", "Connection reset by peer", "Broken pipe"
        if not isinstance(error, dist.DistError) and not any(words in str(error) for words in gone):
            raise
        raise ValueError(_then("another process of this run is gone", config)) from error


def _then(what: str, config: DictConfig) -> str:
    """Say what happened and, if there is a checkpoint, how to resume."""
    last = Path(config.paths.checkpoints) / LAST
    return f"{what}; continue with resume={last}" if last.is_file() else what


def _one_line(error: Exception) -> str:
    """Describe an error in one line; if a configured object raised it, start with its configuration key."""
    cause = error.__cause__
    if isinstance(error, InstantiationException) and cause is not None:
        key = str(error).rpartition("full_key: ")[2].strip()
        return f"{key}: {cause}"
    return str(error)


@hydra.main(config_path=config_dir(), config_name="train", version_base="1.3")
def main(config: DictConfig) -> float:
    """Train; on bad input, log a line that names it and exit with 2; on signal n, log a line and exit with 128 + n."""
    keep_freed_memory()
    StopSignals().install()
    try:
        return train(config)
    except Stopped as stop:
        queued = stop.signal == signal.SIGUSR1 and requeue()
        log.error("%s%s", _then(f"stopped by {stop}", config), " (the job is queued again)" if queued else "")
        sys.exit(128 + stop.signal)
    except (ValueError, OSError, InstantiationException, MisconfigurationException) as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        log.error("%s (HYDRA_FULL_ERROR=1 shows where)", _one_line(error))
        sys.exit(2)


if __name__ == "__main__":
    main()
