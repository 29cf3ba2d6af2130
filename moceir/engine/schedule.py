"""Runs a network on pictures one at a time, strip by strip, with the same result as on the whole picture.

It knows the order of a network's parts, but not what they compute. Strips fit into a processor's cache, which makes
them faster than whole maps; sums over a picture use double precision, which makes them more exact. The division into
strips depends on the picture's size alone, so the number of threads does not change a bit of the result.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from moceir.cores import available_cores
from moceir.engine.allocator import Pages, give_freed_memory_back, memory
from moceir.engine.maps import Computed, Map, Readable, Rows
from moceir.engine.pictures import ContinuedPicture, Read, Write
from moceir.engine.regions import Region
from moceir.engine.workers import Workers
from moceir.networks.costs import padded_size
from moceir.networks.folding import folded
from moceir.networks.interface import Restoration, check_pictures
from moceir.networks.layers import channels_last
from moceir.networks.routes import RouteCosts, Routing, Run
from moceir.networks.strips import Block, Halo, Strip, add_up
from moceir.networks.unet import UNet

#: The approximate number of full-resolution pixels that a strip covers.
STRIP_PIXELS = 64 * 1280

#: Maps of up to this many pixels stay in one strip: a second thread would save less than a second strip costs.
ONE_STRIP = 6_000

#: In pictures of more pixels, maps have pages of their own, because among blocks of other sizes they would leave gaps.
LARGE = 8_000_000

#: Large pictures whose maps would take more than this part of a core's share of the machine's memory compute two things
#: twice rather than keep them: the map before the first halving, when the decoder needs it, and what blocks of that
#: resolution keep from pass to pass. It is a part of all memory, not of what is free, so that a machine always gives
#: the same result, and there may be a process for each core.
PART_OF_MEMORY = 0.25

#: The number of maps like the first that are in memory at once if nothing is computed twice.
MAPS_AT_ONCE = 4

Keep = Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b c h w"]]


def move(network: UNet, device: str) -> UNet:
    """Move a network to a device and return it.

    Raises:
        ValueError: when the device cannot be used.
    """
    try:
        return network.to(device)
    except (RuntimeError, AssertionError) as error:  # torch raises one of these when there is no such device
        raise ValueError(f"device {device} cannot be used: {error}") from error


class Engine:
    """Gives a network's results, routes and budget included, up to rounding, but faster and with less memory.

    It copies the weights when it is made, computes in float32, and restores a batch picture by picture.

    Args:
        network: the network that restores; its ``mac_budget`` applies.
        device: where to run, for example ``"cpu"`` or ``"cuda"``.
        threads: number of CPU threads; None for the cores that the process may use.

    Raises:
        ValueError: when the device cannot be used.
    """

    def __init__(self, network: UNet, *, device: str = "cpu", threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads={threads}: give at least 1, or None to use all available cores")
        self.network = move(folded(network).float(), device)
        self.device = next(self.network.parameters()).device
        self.workers = Workers((available_cores() if threads is None else threads) if self.device.type == "cpu" else 1)

    @property
    def route_costs(self) -> RouteCosts:
        """The cost of the network's routes."""
        return self.network.route_costs

    @property
    def mac_budget(self) -> float | None:
        """The network's budget in GMACs, or None; setting it changes the engine's copy only."""
        return self.network.mac_budget

    @mac_budget.setter
    def mac_budget(self, gmacs: float | None) -> None:
        self.network.mac_budget = gmacs

    def restore_and_route(
        self, x: Float[Tensor, "b 3 h w"], *, experts: Int[Tensor, "layers b k"] | None = None
    ) -> Restoration:
        """Return what :meth:`moceir.networks.unet.UNet.restore_and_route` returns in evaluation mode.

        Args:
            x: RGB in [0, 1], on any device; the result is on the same.
            experts: the experts to take; None lets the routers choose.

        Raises:
            ValueError: when ``x`` is not a floating-point (B, 3, H, W) tensor, or empty.
        """
        check_pictures(x)
        restored = torch.empty_like(x)
        routings = []
        for index, picture in enumerate(x):
            choice = None if experts is None else experts[:, index : index + 1]

            def read(region: Region, picture: Tensor = picture) -> Tensor:
                return region.of(picture)[None].to(self.device, torch.float32)

            def write(region: Region, part: Tensor, index: int = index) -> None:
                region.of(restored)[index] = part[0]

            routings.append(self.run(read, write, *x.shape[-2:], experts=choice))
        return Restoration(restored, tuple(_join(layer) for layer in zip(*routings, strict=True)))

    @torch.inference_mode()
    def run(
        self,
        read: Read,
        write: Write,
        height: int,
        width: int,
        *,
        experts: Int[Tensor, "layers 1 k"] | None = None,
    ) -> tuple[Routing, ...]:
        """Restore one picture, reading and writing regions of it from several threads at once.

        Args:
            read: returns any region of the picture, float32 in [0, 1]; may be called repeatedly.
            write: takes regions of the restored picture, not clamped; each pixel once.
            height, width: size of the picture.
            experts: the experts to take; None lets the routers choose.

        Returns:
            Each layer's routing of the picture.
        """
        run = self.network.begin(experts=experts)
        levels = self._levels(height, width)
        large, sparing = height * width > LARGE and self.device.type == "cpu", False
        keep = Pages().copy if large else channels_last
        padded = padded_size(len(self.network.down), (height, width))
        picture = ContinuedPicture(read, height, width, padded)
        current = Map(levels[0])
        skips: list[Readable] = []
        recipe: list[tuple[int, Callable[[Tensor, Halo], Tensor]]] = []
        level = 0
        deepen: nn.Module = nn.Identity()
        for part in self.network.parts():
            module = part.module
            if large:
                give_freed_memory_back()
            if part.kind == "embed":
                recipe.append((_reach(module), module))
                current = self._map(levels[0], Computed(picture, levels[0], tuple(recipe)).read, keep=keep)
                sparing = large and MAPS_AT_ONCE * current.nbytes > PART_OF_MEMORY * memory() / (os.cpu_count() or 1)
            elif part.kind == "block":
                if not isinstance(module, Block):
                    raise ValueError(f"{type(module).__name__} is not a Block")
                if recipe:
                    current, step = self._block(module, current, run, keep=keep, twice=sparing and level == 0)
                    recipe.append(step)
                elif module.rewrites:
                    raise ValueError(
                        f"{type(module).__name__}: a block before the embedding must not change the picture"
                    )
                else:
                    self._passes(module, picture, levels[0], run, keep=keep, twice=True)
            elif part.kind == "down":
                twice = sparing and level == 0
                skips.append(Computed(picture, levels[0], tuple(recipe)) if twice else current)
                current = self._halve(module, current, levels[level + 1], release=twice, keep=keep)
                level += 1
            elif part.kind == "up":
                deepen = module
            elif part.kind == "fuse":
                level -= 1
                current = self._double(deepen, module, current, skips.pop(), levels[level], keep=keep)
            else:
                self._write(module, current, picture, write, (height, width))
        return tuple(run.routings)

    def _levels(self, height: int, width: int) -> list[Rows]:
        """Divide each level's map into strips."""
        alignments = [2] * (len(self.network.down) + 1)  # halving takes pairs of rows
        farthest, before_halving, halved = 1, 0, False
        for part in self.network.parts():
            reach = _reach(part.module)
            farthest = max(farthest, reach)
            if isinstance(part.module, Block):
                alignments[part.level] = math.lcm(alignments[part.level], part.module.alignment)
                farthest = max(farthest, *part.module.reaches)
            halved = halved or part.kind == "down"
            before_halving += 0 if halved else reach  # rows for computing the first skip again
        least = max(farthest, before_halving)
        height, width = padded_size(len(self.network.down), (height, width))
        return [
            Rows(height >> level, _strip_rows(height >> level, width, alignment, least), least)
            for level, alignment in enumerate(alignments)
        ]

    def _map(
        self,
        rows: Rows,
        compute: Callable[[int, int], Tensor],
        release: Sequence[tuple[Map, float, int]] = (),
        *,
        keep: Keep,
    ) -> Map:
        """Compute a new map.

        Args:
            rows: its division into strips.
            compute: returns its rows.
            release: maps to release strip by strip, as (map, rows of it for each new row, rows read around a strip).
            keep: copies a strip to where it stays.
        """
        new = Map(rows)
        for strip in self.workers.map(lambda strip: keep(compute(*strip)), rows):
            new.strips.append(strip)
            done = len(new.strips) * rows.size
            for old, scale, reach in release:
                old.release(int(done * scale) - reach)
        return new

    def _block(
        self, block: Block, current: Map, run: Run, *, keep: Keep, twice: bool
    ) -> tuple[Map, tuple[int, Callable[[Tensor, Halo], Tensor]]]:
        """Return the block's result on a map, and the step that computes it from the block's input.

        ``twice``: instead of keeping what the block stores from pass to pass, compute it a second time.
        """
        rows = current.rows
        strip, known, kept = self._passes(block, current, rows, run, keep=keep, twice=twice)
        reach = block.reaches[-1]
        if not block.rewrites:
            return current, (0, lambda x, halo: halo.crop(x))
        recompute = block.reach, lambda x, halo: block.recompute(x, halo, known)
        if twice:
            compute = Computed(current, rows, [recompute]).read
            return self._map(rows, compute, [(current, 1.0, block.reach)], keep=keep), recompute
        release = [(one, 1.0, reach) for one in (current, kept) if one is not None]
        new = self._map(rows, lambda top, bottom: block.update(strip(top, bottom, reach), known), release, keep=keep)
        return new, recompute

    def _passes(
        self, block: Block, source: Readable, rows: Rows, run: Run, *, keep: Keep, twice: bool
    ) -> tuple[Callable[[int, int, int], Strip], list[Any], Map | None]:
        """Run all passes but the last; return what gives that one its strips, what it knows, and what was kept."""
        known: list[Any] = []
        kept: Map | None = None

        def strip(top: int, bottom: int, reach: int) -> Strip:
            first, last, halo = rows.grown(top, bottom, reach)
            x = source.read(first, last)
            return Strip(x, block.prepare(x), None if kept is None else kept.read(first, last), halo)

        for reach in block.reaches[:-1]:
            keeping = Map(rows)
            sums = []
            summarise = partial(self._summarise, block, strip, reach, known)
            for total, kept_strip in self.workers.map(summarise, rows):
                sums.append(total)
                keeping.strips.append(None if twice or kept_strip is None else keep(kept_strip))
            # A worker runs this, too: an operation in this thread would wake other threads, which spin for a while.
            conclude = partial(block.conclude, known=known, run=run)
            known.extend(self.workers.map(conclude, [add_up(sums)]))
            kept = None if keeping.strips[0] is None else keeping
        return strip, known, kept

    @staticmethod
    def _summarise(
        block: Block, strip: Callable[..., Strip], reach: int, known: list[Any], rows: tuple[int, int]
    ) -> tuple[Any, Tensor | None]:
        return block.summarise(strip(*rows, reach), known)

    def _halve(self, module: nn.Module, current: Map, rows: Rows, *, release: bool, keep: Keep) -> Map:
        """Compute the map a level deeper; ``release``: release the one above meanwhile."""

        def compute(top: int, bottom: int) -> Tensor:
            first, last, halo = current.rows.grown(2 * top, 2 * bottom, _reach(module))
            return module(current.read(first, last), halo)

        return self._map(rows, compute, [(current, 2.0, _reach(module))] if release else [], keep=keep)

    def _double(self, up: nn.Module, fuse: nn.Module, current: Map, skip: Readable, rows: Rows, *, keep: Keep) -> Map:
        """Compute the map a level above, fused with its skip."""

        def compute(top: int, bottom: int) -> Tensor:
            first, last, halo = current.rows.grown(top // 2, bottom // 2, _reach(up))
            return fuse(up(current.read(first, last), halo), skip.read(top, bottom))

        release: list[tuple[Map, float, int]] = [(current, 0.5, _reach(up))]
        if isinstance(skip, Map):
            release.append((skip, 1.0, 0))
        return self._map(rows, compute, release, keep=keep)

    def _write(
        self, module: nn.Module, current: Map, picture: ContinuedPicture, write: Write, size: tuple[int, int]
    ) -> None:
        """Write the sum of the picture and the last part's result."""
        height, width = size

        def finish(strip: tuple[int, int]) -> int:
            top, bottom = strip
            first, last, halo = current.rows.grown(top, bottom, _reach(module))
            part = module(current.read(first, last), halo) + picture.read(top, bottom)
            inside = min(bottom, height)
            if top < inside:
                write(Region(top, inside, 0, width, height, width), part[:, :, : inside - top, :width])
            return bottom

        for bottom in self.workers.map(finish, current.rows):
            current.release(bottom - _reach(module))


def _reach(module: nn.Module) -> int:
    """Return how many input rows around a strip a part needs, if it has no sums."""
    return cast(int, getattr(module, "reach", 0))


def _strip_rows(height: int, width: int, alignment: int, least: int) -> int:
    """Choose the rows of a strip; the number of strips is even, to load the cores of most processors equally."""
    strips = 2 * max(1, round(height * width / STRIP_PIXELS / 2)) if height * width > ONE_STRIP else 1
    return max(-(-least // alignment), round(height / strips / alignment)) * alignment


def _join(routings: tuple[Routing, ...]) -> Routing:
    """Join one layer's decisions on several pictures into one batch."""
    return Routing(
        logits=torch.cat([routing.logits for routing in routings]),
        gates=torch.cat([routing.gates for routing in routings]),
        experts=torch.cat([routing.experts for routing in routings]),
        importance=torch.stack([routing.importance for routing in routings]).mean(dim=0),
        load=torch.stack([routing.load for routing in routings]).mean(dim=0),
    )
