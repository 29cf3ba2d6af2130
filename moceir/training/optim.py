"""The learning rate's course."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine_schedule(optimizer: Optimizer, *, total_steps: int, warmup_steps: int, decay: float) -> LambdaLR:
    """Linear warm-up from near zero, then half a cosine down to zero (design document, section 5.1).

    Args:
        optimizer: its learning rates are the peak.
        total_steps: of the run.
        warmup_steps: before the peak.
        decay: over which share of the steps, at their end, the rate falls; 1 is the document's.
    """

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / (warmup_steps + 1))
        return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, step / total_steps - 1 + decay) / decay)))

    return LambdaLR(optimizer, factor)
