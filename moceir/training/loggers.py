"""Logs to Weights & Biases, online or offline."""

from __future__ import annotations

import logging
import os
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger

log = logging.getLogger(__name__)


def wandb_logger(**arguments: Any) -> WandbLogger:
    """Create a :class:`WandbLogger` with these arguments, offline when nobody is logged in, so that no run waits.

    The environment variable ``WANDB_MODE``, if set, overrides the mode.
    """
    mode = os.environ.get("WANDB_MODE")
    if mode is None:
        mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
        if mode == "offline":
            log.info(
                "Weights & Biases: nobody is logged in, so this run is stored on disk; `wandb sync` uploads it later"
            )
    return WandbLogger(offline=mode != "online", mode=mode, **arguments)
