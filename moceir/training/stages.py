"""Stages of progressive training: each is a run of its own that starts from the weights of the one before."""

from __future__ import annotations

from pathlib import Path


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
    """The last checkpoint of the latest run of a name, to go on from; None when there is none, or it has finished.

    Args:
        runs: where runs are written, as ``<name>/<time>/``. One that was resumed ends in a later folder.
    """
    checkpoints = sorted((runs / name).glob("*/checkpoints/last.ckpt"))
    finished = sorted((runs / name).glob("*/network.safetensors"))
    if not checkpoints or (finished and finished[-1].parent >= checkpoints[-1].parent.parent):
        return None
    return checkpoints[-1]
