"""Network, loss and optimiser as one LightningModule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric
from torchmetrics.functional.image import peak_signal_noise_ratio

from moceir.data.datamodule import RestorationDataModule
from moceir.data.datasets import Sample, Stream
from moceir.network.unet import MoCEIR
from moceir.training.optim import cosine_schedule


class RestorationModule(LightningModule):
    """Trains a network on (degraded, clean) pairs.

    Loss: ``pixel_weight`` · L1 (eq. 13) + ``balance_weight`` · auxiliary loss (eq. 9).

    Args:
        network: what to train.
        optimizer: makes the optimiser from the parameters.
        warmup_steps: steps before the learning rate reaches its peak.
        pixel_weight: α of eq. 16.
        balance_weight: η of eq. 16.
        seed: decides the routing noise.
    """

    def __init__(
        self,
        *,
        network: MoCEIR,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        warmup_steps: int,
        pixel_weight: float,
        balance_weight: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.make_optimizer = optimizer
        self.warmup_steps = warmup_steps
        self.pixel_weight = pixel_weight
        self.balance_weight = balance_weight
        self.seed = seed
        self.tasks: list[str] = []
        self.psnr = nn.ModuleList()

    def setup(self, stage: str) -> None:
        """Each task of the validation data gets a PSNR of its own."""
        self.tasks = cast(RestorationDataModule, self.trainer.datamodule).validation_tasks  # type: ignore[attr-defined]
        self.psnr = nn.ModuleList(MeanMetric() for _ in self.tasks)

    def training_step(self, batch: Sample, batch_index: int) -> Tensor:
        restoration = self.network.restore_and_route(batch.degraded, noise=self._routing_noise(batch, batch_index))
        pixel, balance = F.l1_loss(restoration.image, batch.clean), restoration.auxiliary_loss
        loss = self.pixel_weight * pixel + self.balance_weight * balance
        self.log_dict({"train/loss": loss, "train/pixel": pixel, "train/balance": balance}, prog_bar=True)
        return loss

    def _routing_noise(self, batch: Sample, batch_index: int) -> Tensor:
        """(layers, B, n), a function of seed, epoch, batch and rank, so that a resumed run goes on as it would have."""
        rng = np.random.default_rng((self.seed, self.current_epoch, batch_index, self.global_rank, Stream.ROUTING))
        shape = self.network.num_layers, len(batch.degraded), self.network.num_experts
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(self.device)

    def validation_step(self, batch: Sample, batch_index: int) -> None:
        restored = self.network(batch.degraded).clamp(0, 1)
        for task, image, clean in zip(batch.task, restored, batch.clean, strict=True):
            self.psnr[self.tasks.index(task)](peak_signal_noise_ratio(image, clean, data_range=1.0))

    def on_validation_epoch_end(self) -> None:
        metrics = dict(zip(self.tasks, cast("Iterable[MeanMetric]", self.psnr), strict=True))
        scores = {f"val/psnr_{task}": metric.compute() for task, metric in metrics.items()}
        scores["val/psnr"] = torch.stack(list(scores.values())).mean()
        self.log_dict(scores, prog_bar=True, sync_dist=True)
        for metric in metrics.values():
            metric.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.make_optimizer(p for p in self.parameters() if p.requires_grad)
        schedule = cosine_schedule(
            optimizer,
            total_steps=int(self.trainer.estimated_stepping_batches),
            warmup_steps=self.warmup_steps,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Plain values, so that the checkpoint can be read with weights_only.
        checkpoint["network_config"] = self.network.config
