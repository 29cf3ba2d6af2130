"""Chooses the default number of training processes."""

from __future__ import annotations

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from moceir.cores import available_cores


def number_of_processes(*, batch_size: int | None) -> int:
    """Return the number of GPUs, or without GPUs that of available cores, reduced to a divisor of the batch size.

    Most layers of these networks are too small to be split among threads, so on a CPU each process has one thread.
    Each run of a multirun has one process, because launchers can start several runs at once.

    Args:
        batch_size: samples per step; None without training steps.
    """
    if HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
        return 1
    most = torch.cuda.device_count() or available_cores()
    if batch_size is None:
        return most
    return next(count for count in range(min(most, batch_size), 0, -1) if batch_size % count == 0)


def strategy(*, devices: int, num_nodes: int) -> str:
    """Return the name of Lightning's strategy for one process, or for several that average their gradients."""
    # An expert that no picture took has no gradient.
    return "auto" if devices * num_nodes == 1 else "ddp_find_unused_parameters_true"
