"""Stages of progressive training: each stage is a separate run that starts from the weights of the previous stage."""

from __future__ import annotations

import logging
from pathlib import Path

from moceir.training.checkpoints import LAST, PREVIOUS, read_checkpoint

log = logging.getLogger(__name__)


def previous_weights(runs: Path, stage: str) -> Path:
    """Return the path of the best weights of a stage's latest finished run.

    Args:
        runs: folder of runs, which holds ``<stage>/<time>/network.safetensors``.
        stage: the stage's name.

    Raises:
        ValueError: when no run of the stage has finished.
    """
    finished = sorted((runs / stage).glob("*/network.safetensors"))  # the folders' names are times
    if finished:
        return finished[-1]
    command = stage.replace("stage", "stage=") if stage.startswith("stage") else f"args=experiment={stage}"
    remedy = f"run `make train {command}` first, or give init_from=WEIGHTS"
    unfinished = sorted((runs / stage).glob("*/checkpoints/last.ckpt"))
    if unfinished:
        remedy = f"finish it with resume={unfinished[-1]}, or start from a checkpoint with init_from="
    raise ValueError(f"{runs / stage}: no finished run of {stage}, whose weights this stage starts from; {remedy}")


def unfinished(runs: Path, name: str) -> Path | None:
    """Find the checkpoint from which to continue unfinished training, or None.

    It is the newest intact checkpoint of the runs that started after the last finished one.

    Args:
        runs: folder of runs, which holds ``<name>/<time>/``. A resumed run continues in a new folder.
        name: the runs' name.
    """
    finished = max((runs / name).glob("*/network.safetensors"), default=None)
    since = "" if finished is None else finished.parent.name
    folders = sorted((runs / name).glob("*/checkpoints"), reverse=True)
    found = (newest_whole(folder) for folder in folders if folder.parent.name > since)
    return next(filter(None, found), None)


def newest_whole(folder: Path) -> Path | None:
    """Return the newest intact checkpoint in a folder, or None. Damaged ones are skipped with a warning."""
    for checkpoint in filter(Path.exists, (folder / LAST, (folder / LAST).with_suffix(PREVIOUS))):
        try:
            read_checkpoint(checkpoint)
        except ValueError as error:
            log.warning("skipped %s", error)
        else:
            log.info("continuing from %s", checkpoint)
            return checkpoint
    return None
