"""Weights & Biases, whether or not anybody is logged in."""

from __future__ import annotations

import logging
import os
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger

log = logging.getLogger(__name__)


def wandb_logger(**arguments: Any) -> WandbLogger:
    """A :class:`WandbLogger` of these arguments; offline when nobody is logged in, so that no run waits for a key.

    The environment variable ``WANDB_MODE`` decides otherwise.
    """
    mode = os.environ.get("WANDB_MODE")
    if mode is None:
        mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
        if mode == "offline":
            log.info(
                "Weights & Biases: nobody is logged in, so this run is kept on disk; `wandb sync` uploads it later"
            )
    return WandbLogger(offline=mode != "online", mode=mode, **arguments)
