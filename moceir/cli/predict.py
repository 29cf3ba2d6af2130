"""``python -m moceir.cli.predict``: restores pictures in many processes, as ``conf/predict.yaml`` configures."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist

from moceir.extras import remedy

try:
    import hydra
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from lightning import Trainer
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from omegaconf import DictConfig, OmegaConf
except ImportError as error:
    raise ImportError(remedy("moceir.cli.predict", str(error.name), "train")) from error

from moceir.config import config_dir
from moceir.engine.allocator import keep_freed_memory
from moceir.inference.folder import plan
from moceir.inference.weights import load_weights
from moceir.training.predict import RestoreFiles

log = logging.getLogger(__name__)


def predict(config: DictConfig) -> int:
    """Restore files.

    Args:
        config: a composed ``conf/predict.yaml``.

    Returns:
        In the first process, how many pictures all processes together could not restore; 0 in the others.

    Raises:
        ValueError: when an input matches nothing, an option is invalid, or another process of the run has ended.
    """
    extension = None if config.format is None else f".{config.format.lower().removeprefix('.')}"
    planned = plan(list(config.inputs), Path(config.output), format=extension)
    options = cast("dict[str, Any]", OmegaConf.to_container(config.restorer, resolve=True))
    module = RestoreFiles(
        network=load_weights(config.weights, topk=config.topk),
        jobs=planned.jobs,
        quality=config.quality,
        max_pixels=config.max_pixels or None,
        threads=config.threads,
        **options,
    )
    # Each process picks its own share of the jobs, and the trainer returns no predictions.
    warnings.filterwarnings("ignore", message="Your `IterableDataset` has `__len__`|predict returned None")
    trainer: Trainer = instantiate(config.trainer)
    try:
        trainer.predict(module, return_predictions=False)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "onnection" not in str(error):
            raise
        raise ValueError("another process of this run is gone; the same command continues with the rest") from error
    if not trainer.is_global_zero:
        return 0  # the first process reports for all; Lightning's launcher takes another's status for a crash
    count = len(planned.jobs)
    log.info("restored %d of %d pictures into %s", count - module.failed, count, config.output)
    for line in planned.unreadable:
        log.error(line)
    return module.failed + len(planned.unreadable)


@hydra.main(config_path=config_dir(), config_name="predict", version_base="1.3")
def main(config: DictConfig) -> None:
    """Restore; exit with 1 when a picture could not be restored, or with 2 and one line that names a bad input."""
    keep_freed_memory()
    try:
        failed = predict(config)
    except (ValueError, OSError, InstantiationException, MisconfigurationException) as error:
        log.error("%s", error)
        sys.exit(2)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
