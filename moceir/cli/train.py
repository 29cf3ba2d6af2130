"""``python -m moceir.cli.train``: one training run, configured by Hydra (see ``conf/``)."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from pathlib import Path

import hydra
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig

from moceir.config import config_dir
from moceir.data.datamodule import RestorationDataModule
from moceir.inference.allocator import keep_freed_memory
from moceir.inference.weights import load_network, save_network
from moceir.network.unet import MoCEIR
from moceir.pictures.files import write_atomically
from moceir.training.module import RestorationModule
from moceir.training.stages import previous_weights, unfinished
from moceir.training.sweep import SUMMARY

log = logging.getLogger(__name__)


def train(config: DictConfig) -> float:
    """Train a network and export its best weights.

    Args:
        config: a composed ``conf/train.yaml``.

    Returns:
        The best mean validation PSNR in dB, which sweeps maximise; NaN when there was no validation.

    Raises:
        ValueError: when ``init_from`` and ``resume`` are both given, the weights to start from are missing or another
            network's, data are missing or broken, or the loss is not finite.
    """
    if config.init_from and config.resume:
        raise ValueError("give init_from (start from weights) or resume (continue a run), not both")
    if config.resume == "latest":
        checkpoint = unfinished(Path(config.paths.runs), config.name)
        config.resume = None if checkpoint is None else str(checkpoint)
    if config.resume:  # the best checkpoint so far counts on
        config.paths.checkpoints = str(Path(config.resume).parent)
    seed_everything(config.seed, workers=True)
    network: MoCEIR = instantiate(config.network)
    start = config.init_from
    if config.previous_stage and not (config.init_from or config.resume):
        start = previous_weights(Path(config.paths.runs), config.previous_stage)
    if start:
        _load(network, Path(start))
    data: RestorationDataModule = instantiate(config.data)
    module = RestorationModule(
        network=network,
        losses=instantiate(config.loss),
        optimizer=instantiate(config.optimizer),
        warmup_steps=config.warmup_steps,
        seed=config.seed,
        compile=config.compile,
        output=Path(config.paths.output),
    )
    callbacks = [instantiate(callback) for callback in config.callbacks.values()]
    loggers = [instantiate(logger) for logger in config.logger.values()]
    trainer: Trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers)
    trainer.fit(module, datamodule=data, ckpt_path=config.resume, weights_only=True)

    best: ModelCheckpoint = next(callback for callback in callbacks if getattr(callback, "monitor", None))
    score = float("nan") if best.best_model_score is None else float(best.best_model_score)
    if trainer.is_global_zero:
        # Without any validation there is no best, and the last weights are what there is.
        trained = load_network(best.best_model_path) if best.best_model_path else network
        exported = Path(config.paths.output) / "network.safetensors"
        save_network(trained, exported)
        last = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        summary = {"best_psnr": None if math.isnan(score) else score, "last": last}
        write_atomically(Path(config.paths.output) / SUMMARY, json.dumps(summary, indent=1).encode())
        log.info("best val/psnr %.3f dB; weights in %s", score, exported)
    return score


def _load(network: MoCEIR, path: Path) -> None:
    start = load_network(path)
    try:
        network.load_state_dict(start.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"{path}: its network, {start.config}, is another than this run's, {network.config}"
        ) from error
    log.info("starting from %s", path)


@hydra.main(config_path=config_dir(), config_name="train", version_base="1.3")
def main(config: DictConfig) -> float:
    """Train; a bad input ends the run with one line that names it, and status 2."""
    keep_freed_memory()
    try:
        return train(config)
    except ValueError as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        log.error("%s\n(HYDRA_FULL_ERROR=1 shows where)", error)
        sys.exit(2)


if __name__ == "__main__":
    main()
