"""Restores arrays, pictures, and picture files."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from moceir.engine.regions import Region
from moceir.engine.schedule import Engine
from moceir.engine.tiling import check_side, run_in_tiles
from moceir.inference.postprocess import bilateral_filter
from moceir.inference.texture import put_back
from moceir.networks.routes import route_of
from moceir.networks.unet import UNet
from moceir.pictures.compare import side_by_side
from moceir.pictures.files import read_bytes, replacing, write_atomically
from moceir.pictures.formats import MAX_PIXELS, Format, check_target, check_values, decode, encode, fit, format_for
from moceir.pictures.picture import Metadata, Picture, PictureError, convert, highest


class Stopped(BaseException):
    """The run was told to stop; nothing of the current picture has been written."""


class Report(NamedTuple):
    """A report on one restored file."""

    height: int
    width: int
    frames: int
    depth: str
    """The type of the values that were written: uint8, uint16, float32."""
    experts: list[list[int]]
    """The experts taken, layer by layer."""
    gmacs: float
    """Cost of the route at 1280×720, post-filter included."""
    seconds: float
    warnings: list[str]
    """One phrase for each property of the source that the target could not keep."""


class Restorer:
    """Restores pictures of any size and depth with a network.

    The network is copied, so that the original keeps its mode, device and budget.

    Args:
        network: the network that restores.
        mac_budget: GMACs at 1280×720 that no picture's route may exceed, filter included; None for no limit.
        post_filter: whether the bilateral filter (design document, eq. 17) follows the network; with the shipped
            weights PSNR is higher without.
        device: where to run, for example ``"cpu"`` or ``"cuda"``.
        threads: number of CPU threads; None for the cores that the process may use.
        tile: side in pixels of overlapping tiles to restore in; None for whole pictures. Tiles bound the memory that
            the largest pictures need, but change the result (see :mod:`moceir.engine.tiling`).
        strength: 0 leaves pictures as they are, 1 takes the network's result, values between blend the two.
        texture: fraction of the lost texture to put back, 0 to 1 (see :mod:`moceir.inference.texture`).

    Raises:
        ValueError: when the budget is less than the cheapest route, the tiles are too small, the device cannot be
            used, or strength or texture is not in [0, 1].
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
        strength: float = 1.0,
        texture: float = 0.0,
    ) -> None:
        for name, value in (("strength", strength), ("texture", texture)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} of {value:g}: it must be from 0 to 1")
        self.engine = Engine(network, device=device, threads=threads)
        self.engine.mac_budget = mac_budget
        self.run = self.engine.run if tile is None else partial(run_in_tiles, self.engine, side=tile)
        if tile is not None:
            check_side(tile)
        self.post_filter, self.strength, self.texture = post_filter, strength, texture

    def restore(self, picture: np.ndarray) -> np.ndarray:
        """Restore an array and return one of the same shape and type.

        Args:
            picture: (H, W) grey; (H, W, C) with 1 channel of grey, 3 of RGB, or these and alpha, which is kept; or a
                batch (N, H, W, C), each of which takes its own route. uint8, uint16, or floats in [0, 1].

        Raises:
            ValueError: when the array is something else, or holds NaN.
        """
        picture = np.asarray(picture)
        channels = picture.shape[-1] if picture.ndim > 2 else 1
        deep = picture.dtype.kind == "u" and picture.dtype.itemsize > 2
        if picture.dtype.kind not in "uf" or deep or picture.ndim not in (2, 3, 4) or channels > 4 or not picture.size:
            hint = (
                "; channels come last: np.moveaxis(picture, -3, -1)"
                if channels > 4 and picture.shape[-3] in (1, 3)
                else ""
            )
            raise ValueError(
                "expected uint8, uint16 or floats in [0, 1], of shape (H, W), (H, W, C) or (N, H, W, C) with 1 to 4 "
                f"channels, got {picture.dtype} {picture.shape}{hint}"
            )
        if picture.ndim == 4:
            restored = np.empty_like(picture)
            for index, one in enumerate(picture):
                restored[index] = self.restore(one)
            return restored
        check_values(picture)
        restored = np.array(picture, order="C")
        if channels < 3:
            grey = picture if picture.ndim == 2 else picture[..., 0]
            (restored if picture.ndim == 2 else restored[..., 0])[...] = self.restore_pixels(grey, picture.dtype)[0]
        else:
            restored[..., :3] = self.restore_pixels(picture[..., :3], picture.dtype)[0]
        return restored

    def restore_pixels(
        self, pixels: np.ndarray, depth: np.dtype, *, experts: Tensor | None = None, stop: Event | None = None
    ) -> tuple[np.ndarray, Tensor]:
        """Restore a picture's pixels.

        Args:
            pixels: (H, W) or (H, W, 3), uint8, uint16, or floats in [0, 1].
            depth: the type to round to, once.
            experts: (layers, 1, k) int64, the experts to take; None lets the routers choose.
            stop: when it is set, by another thread, :class:`Stopped` is raised.

        Returns:
            The restored values, and the experts that were taken, (layers, 1, k).
        """
        white = highest(pixels.dtype)
        # A grey picture, in one channel or in three, stays grey: its result is projected onto grey.
        grey = pixels.ndim == 2 or bool((pixels == pixels[..., :1]).all())
        # Steps that read neighbouring pixels run before rounding, except the document's filter, which needs 8 bits.
        whole = self.texture > 0 or (self.post_filter and depth != np.uint8)
        restored = np.empty(pixels.shape, np.float32 if whole else depth)

        def read(region: Region) -> Tensor:
            if stop is not None and stop.is_set():
                raise Stopped
            part = pixels[region.top : region.bottom, region.left : region.right]
            rgb = torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32) / white).to(self.engine.device)
            return (rgb.expand(3, -1, -1) if rgb.ndim == 2 else rgb.permute(2, 0, 1))[None]

        def write(region: Region, part: Tensor) -> None:
            if self.strength < 1:
                part = torch.lerp(read(region), part, self.strength)
            if grey:
                part = part.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
            rgb = part[0].clamp(0, 1).permute(1, 2, 0).cpu().numpy()
            inside = restored[region.top : region.bottom, region.left : region.right]
            inside[...] = convert(rgb[..., 0] if pixels.ndim == 2 else rgb, restored.dtype)

        routings = self.run(read, write, *pixels.shape[:2], experts=experts)
        if self.texture > 0:
            restored = put_back(restored, convert(pixels, np.dtype(np.float32)), self.texture)
        if self.post_filter:
            restored = bilateral_filter(restored)
        return convert(restored, depth), route_of(routings, 1)

    def restore_pictures(
        self,
        pictures: Sequence[Picture],
        format: Format,
        *,
        experts: Tensor | None = None,
        stop: Event | None = None,
    ) -> tuple[list[Picture], Tensor]:
        """Restore all pictures of a file with the first one's route, in a depth that the format can hold.

        Args:
            pictures: at least one.
            format: what they will be written as.
            experts, stop: see :meth:`restore_pixels`.

        Returns:
            The pictures, and the experts that were taken, (layers, 1, k).
        """
        restored = []
        for picture in pictures:
            picture = fit(picture, format)
            depth = picture.depth if picture.alpha_kind != "premultiplied" else picture.pixels.dtype
            pixels, experts = self.restore_pixels(picture.pixels, depth, experts=experts, stop=stop)
            restored.append(replace(picture, pixels=pixels))
        if experts is None:
            raise ValueError("no pictures")
        return restored, experts

    def restore_bytes(
        self,
        data: bytes,
        name: str,
        target: Path,
        *,
        quality: int | None = None,
        max_pixels: int | None = MAX_PIXELS,
        compare: Path | None = None,
        stop: Event | None = None,
    ) -> tuple[bytes, Report]:
        """Restore a file's content and return the content for a file named ``target``.

        Args:
            data: the content.
            name: for the error's message.
            target: its suffix decides the format.
            quality: see :func:`moceir.pictures.formats.encode`.
            max_pixels: see :func:`moceir.pictures.formats.decode`.
            compare: where to write a picture of the first frame before and after.
            stop: when it is set, by another thread, :class:`Stopped` is raised.

        Raises:
            PictureError: when the content cannot be decoded, restored (too large for the memory, say) or encoded.
        """
        start = time.perf_counter()
        format_for(target)
        pictures = decode(data, name, max_pixels=max_pixels)
        content, report = self.restore_decoded(pictures, name, target, quality=quality, compare=compare, stop=stop)
        return content, report._replace(seconds=time.perf_counter() - start)

    def restore_decoded(
        self,
        pictures: Sequence[Picture],
        name: str,
        target: Path,
        *,
        quality: int | None = None,
        compare: Path | None = None,
        experts: Tensor | None = None,
        stop: Event | None = None,
    ) -> tuple[bytes, Report]:
        """Restore decoded pictures and return the content for a file named ``target``.

        Args:
            pictures: at least one.
            name, target, quality, compare: see :meth:`restore_bytes`.
            experts, stop: see :meth:`restore_pixels`.

        Raises:
            PictureError: when the pictures cannot be restored (too large for the memory, say) or encoded.
        """
        start = time.perf_counter()
        format = format_for(target)
        check_target(pictures, format, target)
        try:
            restored, experts = self.restore_pictures(pictures, format, experts=experts, stop=stop)
        except Exception as error:  # no memory, as numpy, torch, CUDA or the system report it
            raise PictureError(f"{name}: could not be restored ({error})") from error
        content, lost = encode(restored, target, quality=quality)
        if compare is not None:
            content_of_both = _before_and_after(pictures[0], restored[0], compare)
            try:
                write_atomically(compare, content_of_both)
            except OSError as error:
                raise PictureError(f"{compare}: could not be written ({error.strerror})") from error
        height, width = restored[0].size
        return content, Report(
            height=height,
            width=width,
            frames=len(restored),
            depth=str(restored[0].depth),
            experts=experts[:, 0].tolist(),
            gmacs=float(self.engine.route_costs.of(experts)[0]) / 1e9,
            seconds=time.perf_counter() - start,
            warnings=list(dict.fromkeys([*(note for picture in restored for note in picture.warnings), *lost])),
        )

    def restore_file(
        self,
        source: Path,
        target: Path,
        *,
        quality: int | None = None,
        max_pixels: int | None = MAX_PIXELS,
        compare: Path | None = None,
        stop: Event | None = None,
        before_replacing: Callable[[str, Report], None] | None = None,
    ) -> Report:
        """Restore a picture file into another, written whole or not at all; both may be the same.

        Args:
            source, target: files.
            quality, max_pixels, compare, stop: see :meth:`restore_bytes`.
            before_replacing: is given the SHA-256 of the target's new content, and the report, just before it takes its
                place.

        Raises:
            PictureError: when the source cannot be read or restored (too large for the memory, say), or the target
                cannot be written, which is found before anything is computed.
        """
        format_for(target)
        data = read_bytes(source)
        try:
            with replacing(target, reserve=len(data)) as file:
                content, report = self.restore_bytes(
                    data, str(source), target, quality=quality, max_pixels=max_pixels, compare=compare, stop=stop
                )
                file.write(content)
                if before_replacing is not None:
                    before_replacing(hashlib.sha256(content).hexdigest(), report)
        except OSError as error:
            raise PictureError(f"{target}: could not be written ({error.strerror})") from error
        return report


def _before_and_after(before: Picture, after: Picture, path: Path) -> bytes:
    eight = np.dtype(np.uint8)
    panels = {"before": convert(before.pixels, eight), "after": convert(after.pixels, eight)}
    about = Metadata(profile=after.metadata.profile)
    return encode([Picture(pixels=side_by_side(panels), depth=eight, bits=8, metadata=about)], path)[0]
