"""Restores videos frame by frame, with one route for all frames of a shot."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from moceir.inference.restore import Report, Restorer
from moceir.networks.routes import route_of
from moceir.pictures.files import replacing
from moceir.pictures.picture import PictureError, highest
from moceir.pictures.segments import Segments
from moceir.pictures.video import rewrite

log = logging.getLogger(__name__)

#: Mean difference of two frames' thumbnails, of 1, above which a new shot begins.
CUT = 0.1
_THUMBNAIL = (32, 32)


class _Shots:
    """Restores frames in order; all frames of a shot take the route of its first frame."""

    def __init__(self, restorer: Restorer, stop: Event | None) -> None:
        self.restorer, self.stop = restorer, stop
        self.depth = np.dtype(np.uint8)
        self.experts: Tensor | None = None
        """The experts of the last shot, (layers, 1, k)."""
        self._before: np.ndarray | None = None

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        before, after = self._before, self._look(pixels)
        if before is None or np.abs(after - before).mean() > CUT:
            self.experts = None
        restored, self.experts = self.restorer.restore_pixels(pixels, self.depth, experts=self.experts, stop=self.stop)
        return restored

    def _look(self, pixels: np.ndarray) -> np.ndarray:
        """A thumbnail in [0, 1]; comparing it with the next frame's detects a new shot."""
        self.depth = pixels.dtype
        small = cv2.resize(pixels, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
        self._before = small / highest(self.depth)
        return self._before

    def state(self) -> list[Any]:
        return [] if self.experts is None else self.experts.tolist()

    def go_on(self, state: list[Any], last: np.ndarray) -> None:
        # Without routing the list is empty, and would lose its shape.
        self.experts = torch.tensor(state) if state else route_of([], 1)
        self._look(last)


def restore_video(
    restorer: Restorer,
    source: Path,
    target: Path,
    *,
    settings: str = "",
    stop: Event | None = None,
    seen: Callable[[float], None] = lambda _: None,
    before_replacing: Callable[[str, Report], None] | None = None,
) -> Report:
    """Restore a video into another file, written whole or not at all; sound and subtitles are copied.

    The routers choose at the first frame of each shot, so that a shot does not flicker between experts. A run that
    ends early leaves its finished segments beside the target; the next run continues after them, with the same result.

    Args:
        restorer: what restores.
        source, target: files; the target's suffix decides the container.
        settings: what decides the result, by :func:`moceir.inference.folder.fingerprint`; segments of others are not
            taken.
        stop, before_replacing: see :meth:`moceir.Restorer.restore_file`.
        seen: is told which share of the video is done, 0 to 1.

    Returns:
        What was done; experts and GMACs are those of the last shot.

    Raises:
        PictureError: when the source is not a readable video, or the target cannot be written.
    """
    start = time.perf_counter()
    shots = _Shots(restorer, stop)
    try:
        status = source.stat()
    except OSError as error:
        raise PictureError(f"{source}: could not be read ({error.strerror})") from error
    try:
        about = [settings, str(source.absolute()), status.st_size, status.st_mtime_ns]
        with Segments(target, json.dumps(about)) as segments, replacing(target, reserve=status.st_size) as file:
            if segments.done:
                log.info("%s: going on behind frame %d", source, segments.frames)
            height, width, frames = rewrite(source, file, target.suffix, segments, shots, seen)
            report = Report(
                height=height,
                width=width,
                frames=frames,
                depth=str(shots.depth),
                experts=[] if shots.experts is None else shots.experts[:, 0].tolist(),
                gmacs=0.0 if shots.experts is None else float(restorer.engine.route_costs.of(shots.experts)[0]) / 1e9,
                seconds=time.perf_counter() - start,
                warnings=[],
            )
            if before_replacing is not None:
                file.flush()
                before_replacing(_sha256(Path(file.name)), report)
    except PictureError:
        raise
    except OSError as error:
        raise PictureError(f"{target}: could not be written ({error.strerror})") from error
    except (RuntimeError, MemoryError) as error:
        raise PictureError(f"{source}: could not be restored ({error})") from error
    return report


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
