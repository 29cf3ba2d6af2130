"""Stages of progressive training: each is a run of its own that starts from the weights of the one before."""

from __future__ import annotations

import logging
from pathlib import Path

from moceir.training.checkpoints import LAST, PREVIOUS, read_checkpoint

log = logging.getLogger(__name__)


def previous_weights(runs: Path, stage: str) -> Path:
    """The best weights of the latest finished run of a stage.

    Args:
        runs: where runs are written, as ``<stage>/<time>/network.safetensors``.
        stage: its name.

    Raises:
        ValueError: when no run of the stage has finished.
    """
    finished = sorted((runs / stage).glob("*/network.safetensors"))  # folders are named by time
    if finished:
        return finished[-1]
    command = stage.replace("stage", "stage=") if stage.startswith("stage") else f"args=experiment={stage}"
    remedy = f"run `make train {command}` first, or give init_from=WEIGHTS"
    unfinished = sorted((runs / stage).glob("*/checkpoints/last.ckpt"))
    if unfinished:
        remedy = f"finish it with resume={unfinished[-1]}, or start from a checkpoint with init_from="
    raise ValueError(f"{runs / stage}: no finished run of {stage}, whose weights this stage starts from; {remedy}")


def unfinished(runs: Path, name: str) -> Path | None:
    """The newest whole checkpoint of a name's runs since one of them finished, to go on from; None when there is none.

    Args:
        runs: where runs are written, as ``<name>/<time>/``. One that was resumed ends in a later folder.
        name: the runs'.
    """
    finished = max((runs / name).glob("*/network.safetensors"), default=None)
    since = "" if finished is None else finished.parent.name
    folders = sorted((runs / name).glob("*/checkpoints"), reverse=True)
    found = (newest_whole(folder) for folder in folders if folder.parent.name > since)
    return next(filter(None, found), None)


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint in a folder that is whole, or None. Others are passed over with a warning."""
    for checkpoint in filter(Path.exists, (folder / LAST, (folder / LAST).with_suffix(PREVIOUS))):
        try:
            read_checkpoint(checkpoint)
        except ValueError as error:
            log.warning("passed over %s", error)
        else:
            log.info("going on from %s", checkpoint)
            return checkpoint
    return None
