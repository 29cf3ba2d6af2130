"""Restoring pictures: one array, or any number of files."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from moceir.data.images import IMAGE_SUFFIXES, ImageError, find_images, read_alpha, read_image, write_image
from moceir.engine.regions import Region
from moceir.engine.schedule import Engine
from moceir.engine.tiling import check_side, run_in_tiles
from moceir.inference.postprocess import bilateral_filter, quantise
from moceir.networks.unet import UNet


class Restorer:
    """Restores 8-bit pictures of any size with a network.

    The network is copied, so that the original keeps its mode, device and budget.

    Args:
        network: what restores.
        mac_budget: GMACs at 1280×720 that no picture's route may exceed, filter included; None for no limit.
        post_filter: whether the bilateral filter (design document, eq. 17) follows the network; with the shipped
            weights PSNR is higher without.
        device: where to run, for example ``"cpu"`` or ``"cuda"``.
        threads: of the processor; None for the cores that the process may use.
        tile: restore in overlapping tiles of so many pixels a side; None for whole pictures. Tiles bound the memory
            of the largest pictures, and give another result (see :mod:`moceir.engine.tiling`).

    Raises:
        ValueError: when the budget is less than the cheapest route, the tiles are too small, or the device cannot be
            used.
    """

    def __init__(
        self,
        network: UNet,
        *,
        mac_budget: float | None = 30.0,
        post_filter: bool = False,
        device: str = "cpu",
        threads: int | None = None,
        tile: int | None = None,
    ) -> None:
        self.engine = Engine(network, device=device, threads=threads)
        self.engine.mac_budget = mac_budget
        self.run = self.engine.run if tile is None else partial(run_in_tiles, self.engine, side=tile)
        if tile is not None:
            check_side(tile)
        self.post_filter = post_filter

    def restore(self, image: np.ndarray) -> np.ndarray:
        """Restore uint8 (H, W, 3) RGB -> the same.

        Raises:
            ValueError: when the array is something else.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"expected a uint8 (H, W, 3) RGB array, got {image.dtype} {image.shape}")
        restored = np.empty_like(image)

        def read(region: Region) -> Tensor:
            part = image[region.top : region.bottom, region.left : region.right]
            return torch.tensor(part, device=self.engine.device).permute(2, 0, 1)[None].float() / 255

        def write(region: Region, part: Tensor) -> None:
            restored[region.top : region.bottom, region.left : region.right] = quantise(part[0])

        self.run(read, write, *image.shape[:2])
        return bilateral_filter(restored) if self.post_filter else restored

    def restore_file(self, source: Path, target: Path) -> None:
        """Restore a picture file into another, written whole or not at all; transparency is kept as it is.

        Raises:
            ImageError: when the source cannot be read or restored (too large for the memory, say), or the target
                cannot be written.
        """
        image, alpha = read_image(source), read_alpha(source)
        try:
            restored = self.restore(image)
        except (RuntimeError, MemoryError) as error:
            raise ImageError(f"{source}: could not be restored ({error})") from error
        write_image(target, restored, alpha=alpha)


class Job(NamedTuple):
    """One file to restore."""

    source: Path
    target: Path


def plan(inputs: Iterable[str], output: Path, *, suffix: str | None = None) -> list[Job]:
    """Which files to restore, and where to.

    Args:
        inputs: picture files, folders (searched recursively, their layout kept) and glob patterns (``**`` for any
            depth; the layout below the first folder named is kept).
        output: a folder; or a picture file, when the only input is one.
        suffix: ``".png"`` and so on, for another format than each source's; None keeps them.

    Raises:
        ValueError: when an input matches nothing, two sources would be written to one file, a source would be
            written over, or a picture's name as output does not fit the rest.
    """
    inputs = list(inputs)
    if output.suffix.lower() in IMAGE_SUFFIXES and not output.is_dir():
        if len(inputs) != 1 or not Path(inputs[0]).is_file():
            raise ValueError(f"{output}: the name of a picture; for anything but one picture give a folder")
        if suffix not in (None, output.suffix.lower()):
            raise ValueError(f"{output}: its format is not {suffix}; leave one of the two out")
        jobs = [Job(Path(inputs[0]), output)]
    else:
        jobs = [
            Job(source, (output / relative).with_suffix(suffix or source.suffix))
            for pattern in inputs
            for source, relative in _expand(pattern, outside=output)
        ]
    sources: dict[Path, Path] = {}
    originals = {source.resolve() for source, _ in jobs}
    for source, target in jobs:
        previous = sources.setdefault(target, source)
        if previous.resolve() != source.resolve():
            raise ValueError(f"{previous} and {source} would both be written to {target}; restore them separately")
        if target.resolve() in originals:
            raise ValueError(f"{target} is a picture to restore and would be written over; give another output")
    return [Job(source, target) for target, source in sources.items()]


def _expand(pattern: str, *, outside: Path) -> Iterator[tuple[Path, Path]]:
    """The files an input stands for, each with its path below the output."""
    path = Path(pattern)
    if path.is_file():
        yield path, Path(path.name)
        return
    if path.is_dir():
        root, found = path, find_images(path)
    else:
        fixed = pattern[: next((i for i, c in enumerate(pattern) if c in "*?["), len(pattern))]
        root = Path(f"{fixed}*").parent
        matches = (Path(match) for match in sorted(glob.glob(pattern, recursive=True)))
        found = [match for match in matches if match.is_file() and match.suffix.lower() in IMAGE_SUFFIXES]
    # A second run into a folder below the input must not restore the first run's results.
    if root.resolve() in outside.resolve().parents:
        found = [file for file in found if not file.resolve().is_relative_to(outside.resolve())]
    if not found:
        raise ValueError(f"{pattern}: no such file, or no PNG, JPEG, WebP, BMP or TIFF among what it names")
    for file in found:
        yield file, file.relative_to(root)
