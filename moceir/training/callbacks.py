"""Callbacks that show the progress of training: routes and their cost, sample pictures, and the worth of blocks."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from torch import Tensor

from moceir.data.datasets import Batch, Sample
from moceir.inference.postprocess import quantise
from moceir.inspection import RouteTally, plot_tally
from moceir.pictures.arrays import write_picture
from moceir.pictures.picture import PictureError
from moceir.training.module import RestorationModule
from moceir.worth import account, plot_worth

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)


class RoutingMonitor(Callback):
    """Logs which experts pictures take and what the routes cost, for each epoch of training and of validation.

    ``<part>/usage/<task>/<layer>/<expert>`` is the share of a task's pictures that take an expert in a layer.
    ``<part>/gmacs`` is the mean cost of the routes at 1280×720, including the post-filter. TensorBoard and Weights &
    Biases also receive ``routing``, a plot of the shares in validation.
    """

    def __init__(self) -> None:
        self._train = RouteTally()
        self._val = RouteTally()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        _count(self._train, pl_module, outputs, batch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _log("train", _everywhere(self._train), pl_module)
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
        tally = _everywhere(self._val)
        self._val = RouteTally()
        _log("val", tally, pl_module)
        if tally.counts and trainer.is_global_zero and any(map(_shows, trainer.loggers)):
            network = cast(RestorationModule, pl_module).network
            show(trainer, "routing", _drawn(plot_tally(tally, network)))


def _count(tally: RouteTally, pl_module: LightningModule, outputs: Any, batch: Batch) -> None:
    if outputs["restoration"].routings:  # a network without routing has nothing to count
        tally.add(batch.tasks, outputs["restoration"].route, cast(RestorationModule, pl_module).network.route_costs)


def _everywhere(tally: RouteTally) -> RouteTally:
    """Merge the tallies of all processes."""
    tallies = [tally]
    if dist.is_available() and dist.is_initialized():
        tallies = [tally] * dist.get_world_size()
        dist.all_gather_object(tallies, tally)
    total = RouteTally()
    for one in tallies:
        total.merge(one)
    return total


def _log(part: str, tally: RouteTally, pl_module: LightningModule) -> None:
    if not tally.counts:
        return
    metrics = {f"{part}/gmacs": tally.gmacs()}
    for task in tally.counts:
        for layer, of_layer in enumerate(tally.shares(task).tolist()):
            metrics |= {f"{part}/usage/{task}/{layer}/{expert}": share for expert, share in enumerate(of_layer)}
    pl_module.log_dict(metrics, sync_dist=True)  # the values are the same in all processes


def _drawn(figure: Figure) -> np.ndarray:
    """Draw a figure as uint8 (H, W, 3), and close it."""
    import matplotlib.pyplot as plt

    file = io.BytesIO()
    figure.savefig(file, format="rgba", dpi=100)
    width, height = figure.canvas.get_width_height()
    plt.close(figure)
    return np.frombuffer(file.getvalue(), np.uint8).reshape(height, width, 4)[..., :3]


def show(trainer: Trainer, name: str, picture: np.ndarray) -> None:
    """Send a picture, uint8 (H, W, 3), to each of a run's loggers that can show pictures."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, trainer.global_step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step=trainer.global_step)


def _shows(logger: Logger) -> bool:
    return isinstance(logger, (TensorBoardLogger, WandbLogger))


class Panel(Callback):
    """Writes the first validation picture of each task, degraded, restored and clean, after every validation.

    Args:
        folder: folder for ``epoch-0000.png`` and so on. TensorBoard and Weights & Biases receive the same picture.
        side: side, in pixels, of the square that is cropped from the middle.
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
                pictures = (batch.degraded[index], outputs["restoration"].restored[index], batch.clean[index])
                self._rows[task] = np.hstack([self._middle(quantise(picture)) for picture in pictures])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._rows:
            return
        panel = np.vstack(list(self._rows.values()))
        self._rows.clear()
        try:
            write_picture(self.folder / f"epoch-{trainer.current_epoch:04d}.png", panel)
        except PictureError as error:
            log.warning("%s; training continues without this panel", error)
        show(trainer, "panel", panel)

    def _middle(self, picture: np.ndarray) -> np.ndarray:
        """Crop the square in the middle, and pad a smaller picture with grey."""
        square = np.full((self.side, self.side, 3), 128, np.uint8)
        height, width = (min(self.side, length) for length in picture.shape[:2])
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        square[:height, :width] = picture[top : top + height, left : left + width]
        return square


class WorthPanel(Callback):
    """Plots the worth of each block and each expert, for TensorBoard and Weights & Biases, when training ends.

    The plot ``worth`` shows the dB that the first validation picture of each task loses without a block, or with
    another expert (:mod:`moceir.worth`).

    Args:
        side: side, in pixels, of the square that is cropped from the middle. The time grows with its area.
    """

    def __init__(self, *, side: int) -> None:
        self.side = side
        self._samples: dict[str, Sample] = {}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not (trainer.is_global_zero and any(map(_shows, trainer.loggers))):
            return
        for degraded, clean, task, name in zip(batch.degraded, batch.clean, batch.tasks, batch.names, strict=True):
            if task not in self._samples:
                self._samples[task] = Sample(self._middle(degraded), self._middle(clean), task, name)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._samples:
            return
        network = cast(RestorationModule, pl_module).network
        training = network.training
        found = list(account(network.eval(), list(self._samples.values())))
        network.train(training)
        show(trainer, "worth", _drawn(plot_worth(found)))

    def _middle(self, picture: Tensor) -> Tensor:
        top, left = (max(0, (length - self.side) // 2) for length in picture.shape[-2:])
        return picture[:, top : top + self.side, left : left + self.side].clone()
