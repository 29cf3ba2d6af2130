"""Which parameters learn, their moving average, and the learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

from lightning.pytorch.callbacks import WeightAveraging
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import get_ema_multi_avg_fn


def freeze_all_but(network: nn.Module, patterns: Sequence[str]) -> None:
    """Let only those parameters of a network learn whose names match one of the patterns.

    Args:
        network: any module.
        patterns: names of parameters, where ``*`` stands for any characters.

    Raises:
        ValueError: when no name matches a pattern.
    """
    parameters = dict(network.named_parameters())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            raise ValueError(f"train_only: no parameter is named {pattern}; the first is {next(iter(parameters))}")
    for name, parameter in parameters.items():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in patterns))


class AveragedWeights(WeightAveraging):
    """Keeps a moving average of the weights, which validation and the exported network use.

    Unlike Lightning's ``EMAWeightAveraging``, it adds a share of the difference, so that weights which don't learn stay
    exactly what they are.

    Args:
        decay: weight of the average so far at each step.
    """

    def __init__(self, *, decay: float) -> None:
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay))


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
