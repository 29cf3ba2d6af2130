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
    remedy = f"run `make train {stage.replace('stage', 'stage=')}` first, or give init_from=WEIGHTS"
    unfinished = sorted((runs / stage).glob("*/checkpoints/last.ckpt"))
    if unfinished:
        remedy = f"finish it with stage={stage} resume={unfinished[-1]}, or start from a checkpoint with init_from="
    raise ValueError(f"{runs / stage}: no finished run of {stage}, whose weights this stage starts from; {remedy}")
