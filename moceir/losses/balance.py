"""The balance of a network's experts over the batch of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from moceir.networks.interface import Restoration
from moceir.networks.routing import balance_loss


def balance_over_processes(restoration: Restoration) -> Float[Tensor, ""]:
    """Return the mean of the layers' balance, eq. 9, of importance and load over the global batch.

    A variation is not linear, so the mean of each process's loss is another loss than that of the whole batch.
    Importance and load are means over pictures: theirs are averaged over the processes, whose batches must be equal in
    size, and gradients flow back to each.
    """
    statistics = torch.stack(restoration.importance_and_load)
    if restoration.restored.requires_grad and dist.is_available() and dist.is_initialized():
        statistics = _SumOverProcesses.apply(statistics) / dist.get_world_size()  # type: ignore[no-untyped-call]  # torch's
    importance, load = statistics
    return balance_loss(importance, load).mean()


class _SumOverProcesses(torch.autograd.Function):
    """Sum every process's tensor. Each process's loss depends on it, so the gradient is the sum of their gradients."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    @once_differentiable
    def backward(_: Any, grad: Tensor) -> Tensor:
        return _summed(grad)


def _summed(x: Tensor) -> Tensor:
    total = x.clone()
    dist.all_reduce(total)
    return total
