"""What is watched while a network trains: routes and their cost, and a panel of pictures."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from moceir.data.datasets import Batch
from moceir.inference.postprocess import quantise
from moceir.inspection import RouteTally
from moceir.pictures.arrays import write_image
from moceir.pictures.picture import ImageError
from moceir.training.module import RestorationModule

log = logging.getLogger(__name__)


class RoutingMonitor(Callback):
    """Logs which experts pictures take and what that costs, over each epoch of training and of validation.

    ``<part>/usage/<task>/<layer>/<expert>`` is the share of a task's pictures that take an expert in a layer,
    ``<part>/gmacs`` the mean cost of the routes at 1280×720, post-filter included.
    """

    def __init__(self) -> None:
        self._train = RouteTally()
        self._val = RouteTally()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        _count(self._train, pl_module, outputs, batch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _log("train", self._train, pl_module)
        self._train = RouteTally()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        _count(self._val, pl_module, outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _log("val", self._val, pl_module)
        self._val = RouteTally()


def _count(tally: RouteTally, pl_module: LightningModule, outputs: Any, batch: Batch) -> None:
    if outputs["restoration"].routings:  # a network without routing has nothing to count
        tally.add(batch.tasks, outputs["restoration"].route, cast(RestorationModule, pl_module).network.route_costs)


def _log(part: str, tally: RouteTally, pl_module: LightningModule) -> None:
    everywhere = [tally]
    if dist.is_available() and dist.is_initialized():
        everywhere = [tally] * dist.get_world_size()
        dist.all_gather_object(everywhere, tally)
    total = RouteTally()
    for one in everywhere:
        total.merge(one)
    if not total.counts:
        return
    metrics = {f"{part}/gmacs": total.gmacs()}
    for task in total.counts:
        for layer, of_layer in enumerate(total.shares(task).tolist()):
            metrics |= {f"{part}/usage/{task}/{layer}/{expert}": share for expert, share in enumerate(of_layer)}
    pl_module.log_dict(metrics, sync_dist=True)  # the same everywhere


class Panel(Callback):
    """Writes the first validation picture of each task, degraded, restored and clean, after every validation.

    Args:
        folder: where ``epoch-0000.png`` goes; TensorBoard and Weights & Biases get the same picture.
        side: of the square that is cut from the middle, in pixels.
    """

    def __init__(self, *, folder: str, side: int) -> None:
        self.folder = Path(folder)
        self.side = side
        self._rows: dict[str, np.ndarray] = {}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for index, task in enumerate(batch.tasks):
            if trainer.is_global_zero and task not in self._rows:
                pictures = (batch.degraded[index], outputs["restoration"].image[index], batch.clean[index])
                self._rows[task] = np.hstack([self._middle(quantise(picture)) for picture in pictures])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._rows:
            return
        panel = np.vstack(list(self._rows.values()))
        self._rows.clear()
        try:
            write_image(self.folder / f"epoch-{trainer.current_epoch:04d}.png", panel)
        except ImageError as error:
            log.warning("%s; training goes on without this panel", error)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("panel", panel, trainer.global_step, dataformats="HWC")
            elif isinstance(logger, WandbLogger):
                logger.log_image("panel", [panel], step=trainer.global_step)

    def _middle(self, image: np.ndarray) -> np.ndarray:
        """The square in the middle, with grey where the picture is smaller."""
        square = np.full((self.side, self.side, 3), 128, np.uint8)
        height, width = (min(self.side, length) for length in image.shape[:2])
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        square[:height, :width] = image[top : top + height, left : left + width]
        return square
