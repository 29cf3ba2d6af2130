"""Combines a network, losses and an optimiser in one LightningModule."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import safetensors.torch
import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from moceir.data.datamodule import RestorationDataModule
from moceir.data.datasets import Batch, Stream
from moceir.losses.weighted import BALANCE, WeightedLoss
from moceir.networks.blocks import MoCE
from moceir.networks.interface import Restoration
from moceir.networks.unet import UNet
from moceir.pictures.files import write_atomically
from moceir.training.optim import cosine_schedule
from moceir.training.teaching import Teacher, all_layers, router_loss

log = logging.getLogger(__name__)


class StepOutput(TypedDict):
    """The output of a training or validation step, for the callbacks."""

    loss: Tensor | None
    restoration: Restoration


class RestorationModule(LightningModule):
    """Trains a network on (degraded, clean) pairs.

    Args:
        network: the network to train.
        losses: the terms of eq. 16 and their weights.
        optimizer: function that creates the optimiser from the parameters.
        warmup_steps: number of steps before the learning rate reaches its peak.
        decay: fraction of the steps, at the end of the run, in which the learning rate falls.
        seed: seed of the routing noise.
        teacher: chooses experts in training, and the routers learn from it. With None, the routers choose.
        compile: a torch.compile backend for the network, such as inductor; None for no compilation.
        output: folder for a batch whose loss is not finite.
    """

    def __init__(
        self,
        *,
        network: UNet,
        losses: WeightedLoss,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        warmup_steps: int,
        decay: float,
        seed: int,
        teacher: Teacher | None,
        compile: str | None,
        output: Path,
    ) -> None:
        super().__init__()
        if teacher is not None and (not network.num_layers or network.topk != 1):
            raise ValueError(
                f"teacher: {type(network).__name__} has no routers that choose one expert; give teacher=null"
            )
        self.teacher = teacher
        self.network = network
        self.losses = losses
        if not network.num_layers and BALANCE in losses.weights:
            log.info("loss.weights.balance: %s has no experts to balance", type(network).__name__)
        self.make_optimizer = optimizer
        self.warmup_steps = warmup_steps
        self.decay = decay
        self.seed = seed
        self.output = output
        self.restore = network.restore_and_route
        if compile:
            for layer in network.modules():
                if isinstance(layer, MoCE):
                    # The number of pictures per expert varies and would fail the compiled code's checks.
                    layer.forward = torch.compiler.disable(layer.forward)  # type: ignore[method-assign]
            self.restore = torch.compile(network.restore_and_route, backend=compile)
        self.scores = nn.ModuleDict()

    def setup(self, stage: str) -> None:
        """Create metrics for the PSNR and SSIM of each validation task and each validation dataset."""
        groups = [*self._data.validation_tasks, *self._data.validation_sets]
        names = [f"{score}/{group}" for score in ("psnr", "ssim") for group in groups]
        self.scores = nn.ModuleDict({name: MeanMetric() for name in names})

    def training_step(self, batch: Batch, batch_index: int) -> StepOutput:
        noise = self._routing_noise(batch, batch_index) if self.network.num_layers else None
        expert = route = None
        if self.teacher is not None:
            expert = self.teacher.experts(self.network, batch.degraded, batch.clean, list(batch.tasks))
            route = all_layers(self.network, expert)
        restoration = self.restore(batch.degraded, noise=noise, experts=route)
        total, terms = self.losses(restoration, batch.clean)
        if self.teacher is not None and expert is not None:
            terms["router"] = router_loss(restoration, expert)
            total = total + self.teacher.weight * terms["router"]
        if not torch.isfinite(total):
            self._stop(batch, terms)
        self.log_dict({"train/loss": total} | {f"train/{name}": term for name, term in terms.items()})
        self.log("loss", total, prog_bar=True, logger=False)
        return {"loss": total, "restoration": restoration}

    def _routing_noise(self, batch: Batch, batch_index: int) -> Tensor:
        """Draw routing noise, (layers, B, n).

        It depends only on the seed, epoch, batch and rank, so that a resumed run draws the same noise.
        """
        rng = np.random.default_rng((self.seed, self.current_epoch, batch_index, self.global_rank, Stream.ROUTING))
        shape = self.network.num_layers, len(batch.degraded), self.network.num_experts
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(self.device)

    def _stop(self, batch: Batch, terms: dict[str, Tensor]) -> None:
        saved = self.output / f"non_finite_batch_{self.global_rank}.safetensors"
        names = {"task": json.dumps(batch.tasks), "name": json.dumps(batch.names)}
        pictures = {"degraded": batch.degraded.cpu().contiguous(), "clean": batch.clean.cpu().contiguous()}
        write_atomically(saved, safetensors.torch.save(pictures, names))
        culprits = [f"{name}={term.item()}" for name, term in terms.items() if not torch.isfinite(term)]
        raise ValueError(
            f"step {self.global_step}: the loss is not finite ({', '.join(culprits)}), on {', '.join(batch.names)}. "
            f"The batch is in {saved}; if its pictures are intact, lower the learning rate or the gradient clipping"
        )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the norm of all gradients before clipping."""
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        self.log("train/gradient_norm", nn.utils.get_total_norm(gradients))

    def validation_step(self, batch: Batch, batch_index: int) -> StepOutput:
        restoration = self.restore(batch.degraded)
        restored = restoration.restored.float().clamp(0, 1)
        for index, (task, name) in enumerate(zip(batch.tasks, batch.names, strict=True)):
            picture, clean = restored[index : index + 1], batch.clean[index : index + 1]
            of_picture = {
                "psnr": peak_signal_noise_ratio(picture, clean, data_range=1.0),
                "ssim": structural_similarity_index_measure(picture, clean, data_range=1.0),
            }
            for group in {task, name.partition("/")[0]}:
                for score, value in of_picture.items():
                    self.scores[f"{score}/{group}"](value)
        return {"loss": None, "restoration": restoration}

    def on_validation_epoch_end(self) -> None:
        # Every process computes every score, because compute() is a collective call. Scores without pictures are NaN.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric MeanMetric was called before")
            scores = {name: cast(MeanMetric, metric).compute() for name, metric in self.scores.items()}
        scores = {name: score for name, score in scores.items() if not score.isnan()}
        of_tasks = [scores[f"psnr/{task}"] for task in self._data.validation_tasks if f"psnr/{task}" in scores]
        # The scores already cover all processes. sync_dist only averages equal values; without it, Lightning warns.
        self.log_dict({f"val/{name}": score for name, score in scores.items()}, sync_dist=True)
        self.log("val/psnr", torch.stack(of_tasks).mean(), prog_bar=True, sync_dist=True)
        for metric in self.scores.values():
            cast(MeanMetric, metric).reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.make_optimizer(p for p in self.parameters() if p.requires_grad)
        schedule = cosine_schedule(
            optimizer,
            total_steps=int(self.trainer.estimated_stepping_batches),
            warmup_steps=self.warmup_steps,
            decay=self.decay,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # These are plain values, so that torch.load can read the checkpoint with weights_only.
        checkpoint["network"] = type(self.network).__name__
        checkpoint["network_config"] = self.network.config

    @property
    def _data(self) -> RestorationDataModule:
        return cast(RestorationDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
