"""Restoring videos: frame by frame, with one route for all frames of a shot."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import cv2
import numpy as np
from torch import Tensor

from moceir.inference.restore import Report, Restorer
from moceir.pictures.files import replacing
from moceir.pictures.picture import ImageError, highest
from moceir.pictures.video import rewrite

#: Mean difference of two frames' thumbnails, of 1, above which a new shot begins.
CUT = 0.1
_THUMBNAIL = (32, 32)


def restore_video(
    restorer: Restorer,
    source: Path,
    target: Path,
    *,
    stop: Event | None = None,
    seen: Callable[[float], None] = lambda _: None,
    before_replacing: Callable[[str], None] | None = None,
) -> Report:
    """Restore a video into another file, written whole or not at all; sound and subtitles are copied.

    The routers choose at the first frame of each shot, so that a shot does not flicker between experts.

    Args:
        restorer: what restores.
        source, target: files; the target's suffix decides the container.
        stop, before_replacing: see :meth:`moceir.Restorer.restore_file`.
        seen: is told which share of the video is done, 0 to 1.

    Returns:
        What was done; experts and GMACs are those of the last shot.

    Raises:
        ImageError: when the source is no readable video, or the target cannot be written.
    """
    start = time.perf_counter()
    before: np.ndarray | None = None
    experts: Tensor | None = None
    depth = np.dtype(np.uint8)

    def change(pixels: np.ndarray) -> np.ndarray:
        nonlocal before, experts, depth
        depth = pixels.dtype
        small = cv2.resize(pixels, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32) / highest(depth)
        if before is None or np.abs(small - before).mean() > CUT:
            experts = None
        before = small
        restored, experts = restorer.restore_pixels(pixels, depth, experts=experts, stop=stop)
        return restored

    try:
        with replacing(target, reserve=source.stat().st_size) as file:
            height, width, frames = rewrite(source, file, target.suffix, change, seen)
            if before_replacing is not None:
                file.flush()
                before_replacing(_sha256(Path(file.name)))
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(f"{target}: could not be written ({error.strerror})") from error
    except (RuntimeError, MemoryError) as error:
        raise ImageError(f"{source}: could not be restored ({error})") from error
    return Report(
        height=height,
        width=width,
        frames=frames,
        depth=str(depth),
        experts=[] if experts is None else experts[:, 0].tolist(),
        gmacs=0.0 if experts is None else float(restorer.engine.route_costs.of(experts)[0]) / 1e9,
        seconds=time.perf_counter() - start,
        warnings=[],
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
