"""``python -m moceir.cli.train``: one training run, configured by Hydra (see ``conf/``)."""

from __future__ import annotations

import logging
from pathlib import Path

import hydra
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig

from moceir.config import config_dir
from moceir.data.datamodule import RestorationDataModule
from moceir.inference.weights import load_network, save_network
from moceir.network.unet import MoCEIR
from moceir.training.module import RestorationModule

log = logging.getLogger(__name__)


def train(config: DictConfig) -> float:
    """Train a network and export its best weights.

    Args:
        config: a composed ``conf/train.yaml``.

    Returns:
        The best mean validation PSNR in dB, which sweeps maximise; NaN when there was no validation.

    Raises:
        ValueError: when ``init_from`` and ``resume`` are both given, ``init_from`` is another network's, or the data
            cannot be found.
    """
    if config.init_from and config.resume:
        raise ValueError("give init_from (start from weights) or resume (continue a run), not both")
    if config.resume:  # the best checkpoint so far counts on
        config.paths.checkpoints = str(Path(config.resume).parent)
    seed_everything(config.seed, workers=True)
    network: MoCEIR = instantiate(config.network)
    if config.init_from:
        start = load_network(config.init_from)
        try:
            network.load_state_dict(start.state_dict())
        except RuntimeError as error:
            raise ValueError(
                f"init_from={config.init_from}: its network, {start.config}, is another than this run's, "
                f"{network.config}"
            ) from error
    data: RestorationDataModule = instantiate(config.data)
    module = RestorationModule(
        network=network,
        optimizer=instantiate(config.optimizer),
        warmup_steps=config.warmup_steps,
        seed=config.seed,
        **config.loss,
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
        log.info("best val/psnr %.3f dB; weights in %s", score, exported)
    return score


@hydra.main(config_path=config_dir(), config_name="train", version_base="1.3")
def main(config: DictConfig) -> float:
    return train(config)


if __name__ == "__main__":
    main()
