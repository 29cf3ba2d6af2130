"""The balance of a network's experts over the batch of all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from moceir.networks.interface import Restoration
from moceir.networks.routing import balance_loss


def balance_over_processes(restoration: Restoration) -> Float[Tensor, ""]:
    """Return the mean of the layers' balance, eq. 9, of importance and load over the global batch.

    A variation is not linear, so the mean of each process's loss is another loss than that of the whole batch.
    Importance and load are means over pictures: theirs are averaged over the processes, whose batches must be equal in
    size. Each process keeps the gradient to its own pictures: their mean over the processes is the whole batch's.
    """
    statistics = torch.stack(restoration.importance_and_load)
    if restoration.restored.requires_grad and dist.is_available() and dist.is_initialized():
        mean = statistics.detach().clone()
        dist.all_reduce(mean)
        # The mean's value with this process's gradient: every process computes the same loss from it.
        statistics = mean / dist.get_world_size() + (statistics - statistics.detach())
    importance, load = statistics
    return balance_loss(importance, load).mean()
