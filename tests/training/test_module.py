"""Tests what a training step computes, logs and rejects, on one process and on two."""

from __future__ import annotations

import csv
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import CSVLogger
from safetensors import safe_open
from safetensors.torch import load_file
from test_training import SMALL, run
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from moceir import MoCEIR
from moceir.config import build, config_dir
from moceir.pictures.arrays import read_picture
from moceir.training.loggers import wandb_logger

WEIGHTS = {"l1": 1.5, "perceptual": 0.0, "ms_ssim": 0.7, "l2": 0.1, "frequency": 0.1, "balance": 0.5}
GATINGS = ("published", "straight_through")


class Step(nn.Module):
    """Combines network and loss, because DDP averages only the gradients of a module's forward pass."""

    def __init__(self, gating: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = MoCEIR(dim=4, num_blocks=[1, 1], num_decoder_blocks=[2], num_heads=[1, 2], gating=gating)
        nn.init.normal_(self.network.output.weight, std=0.1)
        self.losses = build("loss", [f"loss.weights.{name}={weight}" for name, weight in WEIGHTS.items()])

    def forward(self, degraded: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
        return self.losses(self.network.restore_and_route(degraded, noise=noise), clean)[0]


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand(4, 3, 32, 32, generator=generator)
    noise = 3 * torch.randn(2, 4, 4, generator=generator)  # (layers, B, n), strong enough to change routes
    return clean + 0.1 * torch.randn(clean.shape, generator=generator), clean, noise


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name.removeprefix("module."): p.grad for name, p in module.named_parameters() if p.grad is not None}


def half_a_batch(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    degraded, clean, noise = batch()
    mine = slice(2 * rank, 2 * rank + 2)
    for gating in GATINGS:
        step = DistributedDataParallel(Step(gating), find_unused_parameters=True)
        step(degraded[mine], clean[mine], noise[:, mine]).backward()
        torch.save(gradients(step), Path(folder) / f"{gating}_{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    """Each process has half the batch. The losses include the auxiliary loss, which is a variation over the batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(half_a_batch, args=(port, str(tmp_path)), nprocs=2)
    for gating in GATINGS:
        step = Step(gating)
        step(*batch()).backward()
        expected = gradients(step)
        for rank in range(2):
            found = torch.load(tmp_path / f"{gating}_{rank}.pt", weights_only=True)
            assert found.keys() >= expected.keys()
            for name, gradient in expected.items():
                assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-9, name
        routers = [gradient.norm() for name, gradient in expected.items() if ".router." in name]
        assert min(routers) > 1e-6, "the auxiliary loss reaches the routers"


def test_everything_is_logged(photographs: Path, tmp_path: Path) -> None:
    off = [f"loss.weights.{name}={weight}" for name, weight in WEIGHTS.items()]
    run(tmp_path / "run", f"data.root={photographs}", "trainer.max_epochs=2", "trainer.log_every_n_steps=1", *off)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = {name for row in rows for name, value in row.items() if value}
    assert {
        f"train/{term}" for term in ("l1", "ms_ssim", "l2", "frequency", "balance", "loss", "gradient_norm")
    } <= logged
    assert {"train/gmacs", "val/gmacs", "lr-AdamW", "val/psnr"} <= logged
    for group in ("gaussian_15", "poisson_100", "photographs"):
        assert {f"val/psnr/{group}", f"val/ssim/{group}"} <= logged
    last = [row for row in rows if row["val/psnr"]][-1]
    tasks = [float(last[f"val/psnr/{task}"]) for task in ("gaussian_15", "gaussian_25", "gaussian_50", "poisson_100")]
    assert float(last["val/psnr"]) == pytest.approx(np.mean(tasks), abs=1e-3)
    usage = [float(last[f"val/usage/gaussian_15/0/{expert}"]) for expert in range(4)]
    assert sum(usage) == pytest.approx(1)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["last"]["val/gmacs"] > 0
    panels = sorted(path.name for path in (tmp_path / "run" / "panels").iterdir())
    assert panels == ["epoch-0000.png", "epoch-0001.png"]
    panel = read_picture(tmp_path / "run" / "panels" / "epoch-0001.png")
    assert panel.shape == (4 * 192, 3 * 192, 3), "a row for each task: degraded, restored, clean"
    # Pictures of 72×72 fill a corner; the clean one is the same in every row.
    assert np.array_equal(panel[:72, 384 : 384 + 72], panel[192 : 192 + 72, 384 : 384 + 72])


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_the_batch(photographs: Path, tmp_path: Path) -> None:
    arguments = [f"data.root={photographs}", "optimizer.lr=1e30", "trainer.gradient_clip_val=null", "loss.weights.l2=1"]
    with pytest.raises(ValueError, match=r"step \d+: the loss is not finite \(.*l2=nan.*\), on photographs/") as caught:
        run(tmp_path / "run", *arguments, "trainer.max_epochs=3", "data.sets.photographs.repeat=8")
    saved = tmp_path / "run" / "non_finite_batch_0.safetensors"
    assert str(saved) in str(caught.value)
    assert load_file(saved)["degraded"].shape == (4, 3, 32, 32)
    with safe_open(saved, "pt") as file:
        assert len(json.loads(file.metadata()["name"])) == 4


def test_precision_accumulation_and_compilation_are_configuration(photographs: Path, tmp_path: Path) -> None:
    arguments = ["trainer.precision=bf16-mixed", "+trainer.accumulate_grad_batches=2", "compile=eager"]
    score = run(tmp_path / "run", f"data.root={photographs}", *arguments, "loss=composite", "loss.weights.perceptual=0")
    assert np.isfinite(score)


def test_an_epoch_of_each_network_and_expert_count_trains(photographs: Path, tmp_path: Path) -> None:
    for number, overrides in enumerate((["network/experts=window"], ["network.num_experts=2"], ["network.topk=2"])):
        assert np.isfinite(run(tmp_path / str(number), f"data.root={photographs}", *overrides))


def test_weights_and_biases_needs_no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photographs: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    logger = wandb_logger(project="moceir", save_dir=str(tmp_path))
    assert logger.experiment.settings.mode == "offline"
    logger.experiment.finish()


def test_stages_follow_each_other(photographs: Path, tmp_path: Path) -> None:
    def stage(number: int) -> Path:
        output = tmp_path / "runs" / f"stage{number}" / "2026"
        settings = [*SMALL, "data=photographs", f"data.root={photographs}", "data.sets.photographs.validation=1"]
        settings += ["debug=quick", "loss=l1", "data.crop=32", "optimizer.lr=0", "~callbacks.average"]
        settings += [f"paths.output={output}", f"paths.runs={tmp_path / 'runs'}", f"stage=stage{number}"]
        with initialize_config_dir(config_dir(), version_base="1.3"):
            config = compose("train", settings, return_hydra_config=True)
            HydraConfig.instance().set_config(config)
        from moceir.cli.train import train

        train(config)
        return output / "network.safetensors"

    with pytest.raises(ValueError, match="no finished run of stage1"):
        stage(2)
    first, second, third = load_file(stage(1)), load_file(stage(2)), load_file(stage(3))
    assert all(torch.equal(first[name], second[name]) for name in first), "learning rate zero: the same weights"
    assert all(torch.equal(second[name], third[name]) for name in second)


def test_every_logger_writes(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    EventAccumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run(
        tmp_path / "run", f"data.root={photographs}", "logger=all", "callbacks.panel.side=64", "callbacks.worth.side=32"
    )
    names = [path.name for path in (tmp_path / "run").rglob("*")]
    assert "metrics.csv" in names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert any(name.startswith("offline-run-") for name in names)
    # Both get all pictures.
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert set(events.Tags()["images"]) == {"panel", "routing", "worth"}
    assert {name.split("_")[0] for name in names if name.endswith(".png")} >= {"panel", "routing", "worth"}
    assert isinstance(build("logger.csv", [f"paths.output={tmp_path}"]), CSVLogger)
