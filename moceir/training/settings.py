"""Checks those settings of a run that no object checks, before anything is read or written."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig


class Range(NamedTuple):
    """The valid values of a setting: a description and a test."""

    words: str
    holds: Callable[[Any], bool]


def _whole(least: int) -> Range:
    return Range(
        f"a whole number of at least {least}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least,
    )


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_NOT_NEGATIVE = Range("a number of at least 0", lambda value: _number(value) and value >= 0)
_RANGES = {
    "seed": Range("a whole number from 0 to 4294967295", lambda value: _whole(0).holds(value) and value < 2**32),
    "warmup_steps": _whole(0),
    "train_only": Range(
        "a list of names of parameters, or null",
        lambda value: value is None or (isinstance(value, ListConfig) and len(value) > 0),
    ),
    "data.crop": _whole(1),
    "data.batch_size": _whole(1),
    "data.validation_pictures": _whole(0),
    "data.num_workers": _whole(0),
    "data.allow_missing": Range("true or false", lambda value: isinstance(value, bool)),
    "data.sets.*.repeat": _whole(1),
    "data.sets.*.validation": _whole(0),
    "optimizer.lr": _NOT_NEGATIVE,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "loss.weights.*": _NOT_NEGATIVE,
    "trainer.max_epochs": _whole(1),
    "trainer.check_val_every_n_epoch": _whole(1),
    "trainer.gradient_clip_val": Range(
        "a number of at least 0, or null", lambda value: value is None or _NOT_NEGATIVE.holds(value)
    ),
    "callbacks.average.decay": Range("a number from 0 to 1", lambda value: _number(value) and 0 <= value <= 1),
    "callbacks.last.minutes": _NOT_NEGATIVE,
}
"""Key in the configuration -> valid values; ``*`` stands for every key of a group."""


def check_settings(config: DictConfig) -> None:
    """Check the values of a composed ``conf/train.yaml``.

    Raises:
        ValueError: when a value is invalid; the message names its key and the value.
    """
    for place, allowed in _RANGES.items():
        for key, value in _at(config, place):
            if not allowed.holds(value):
                shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
                raise ValueError(f"{key}={shown}: {allowed.words} is needed")


def _at(node: Any, place: str, within: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each existing key that a pattern matches, and its value."""
    first, _, rest = place.partition(".")
    for key in list(node) if isinstance(node, DictConfig) else ():
        if first in ("*", key):
            if rest:
                yield from _at(node[key], rest, f"{within}{key}.")
            else:
                yield f"{within}{key}", node[key]


class WritableFolder(Callback):
    """Ends the command with a message of one line when the folder for runs is not writable, before Hydra uses it."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        _try(Path(config.hydra.run.dir).parent)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        _try(Path(config.hydra.sweep.dir).parent)


def _try(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        print(
            f"error: paths.runs: {folder}: runs cannot be written there ({error.strerror}); give another folder",
            file=sys.stderr,
        )
        sys.exit(2)
