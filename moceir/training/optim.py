"""The learning rate schedule."""

from __future__ import annotations

import math

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
