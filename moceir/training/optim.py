"""Which parameters learn, and the learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine_schedule(optimizer: Optimizer, *, total_steps: int, warmup_steps: int, decay: float) -> LambdaLR:
    """Create a schedule: linear warm-up from near zero, then half a cosine down to zero.

    Section 5.1 of the design document describes it, with a decay of 1.

    Args:
        optimizer: the optimiser, whose learning rates are the peak.
        total_steps: number of steps in the run.
        warmup_steps: number of steps before the peak.
        decay: fraction of the steps, at the end of the run, in which the rate falls.
    """

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / (warmup_steps + 1))
        return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, step / total_steps - 1 + decay) / decay)))

    return LambdaLR(optimizer, factor)


def freeze_all_but(network: nn.Module, parts: Sequence[str]) -> None:
    """Let only the named modules of a network learn.

    Raises:
        ValueError: when the network has no such module.
    """
    network.requires_grad_(False)
    for part in parts:
        try:
            network.get_submodule(part).requires_grad_(True)
        except AttributeError as error:
            names = ", ".join(name for name, _ in network.named_children())
            raise ValueError(f"train_only: the network has no part {part}; its parts begin with {names}") from error
