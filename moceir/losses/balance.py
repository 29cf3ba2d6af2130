"""The balance of a network's experts over the batch of all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce

from moceir.networks.interface import Restoration
from moceir.networks.routing import balance_loss


def balance_over_processes(restoration: Restoration) -> Tensor:
    """Mean of the layers' balance, eq. 9, of importance and load over the global batch; scalar.

    A variation is not linear, so the mean of each process's loss is another loss than that of the whole batch.
    Importance and load are means over pictures: theirs are averaged over the processes, whose batches must be equal in
    size, and gradients flow back to each.
    """
    statistics = torch.stack(restoration.importance_and_load)
    if restoration.image.requires_grad and dist.is_available() and dist.is_initialized():
        statistics = all_reduce(statistics) / dist.get_world_size()
    importance, load = statistics
    return balance_loss(importance, load).mean()
