"""The network for inference: folded, and run region by region with the whole picture's result.

A map is kept for each level, nothing else of a picture's size. Regions are small enough for a processor's cache, which
makes them faster than whole maps, and the sums over a picture are in double precision, which makes them more exact.
"""

from __future__ import annotations

import copy
import math
import mmap
from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moceir.inference.allocator import give_freed_memory_back
from moceir.inference.folding import (
    FoldedDecoderBlock,
    FoldedEncoderBlock,
    Gram,
    Linear,
    Read,
    Route,
    Work,
    widened,
)
from moceir.inference.regions import Region, convolve, convolved_pixels, strips
from moceir.network.blocks import DecoderBlock, EncoderBlock
from moceir.network.budget import (
    POST_FILTER_MACS_PER_PIXEL,
    REFERENCE_SIZE,
    RouteCosts,
    check_budget,
    layer_budget,
    padded_size,
    window_macs,
)
from moceir.network.routing import Routing, RoutingRules
from moceir.network.unet import MoCEIR, Restoration, check_pictures

#: Numbers in a region of a map at most, if that are rows enough: a few such maps fit into a processor's last cache.
REGION_SIZE = 64 * 1280 * 8

#: In pictures of more pixels, the decoder's last level computes the shared experts' values twice rather than keep them
#: for the cross-attention, and memory is given back early.
LEAN_FROM = 8_000_000

#: In pictures of more pixels, the encoder's first level, too, is computed once more when the decoder needs it.
REREAD_FROM = 14_000_000

Write = Callable[[Region, Tensor], None]
"""Takes a region of a map."""


def regions_of(dim: int, height: int, width: int, alignment: int) -> list[Region]:
    """The regions in which a map of ``dim`` channels is worked on, from top to bottom.

    Whole rows, because parts of rows are not contiguous, and copied again and again.
    """
    return strips(height, width, rows=max(1, REGION_SIZE // (dim * width * alignment)) * alignment)


class Map:
    """A map (1, C, H, W), or the rows of it that are there, and the regions in which it is worked on."""

    def __init__(self, regions: list[Region], dim: int, device: torch.device) -> None:
        self.regions = regions
        self.dim, self.device = dim, device
        self.height, self.width = regions[0].height, regions[0].width
        self.frame = Region(0, 0, 0, self.width, self.height, self.width)
        self.data = torch.empty(1, dim, 0, self.width, device=device)
        self.pages: mmap.mmap | None = None

    def read(self, region: Region) -> Tensor:
        """A region, as a view."""
        return region.within(self.frame, self.data)

    def write(self, region: Region, part: Tensor) -> None:
        """Set a region."""
        self.read(region).copy_(part)

    def hold(self, top: int, bottom: int) -> None:
        """Make room for rows down to ``bottom``, and forget those above ``top``."""
        old_frame, old = self.frame, self.data
        self.frame = old_frame._replace(top=top, bottom=bottom)
        shape = 1, self.dim, bottom - top, self.width
        self.data = torch.empty(shape, device=self.device, memory_format=torch.channels_last)
        kept = self.frame._replace(bottom=min(bottom, old_frame.bottom))
        if kept.top < kept.bottom:
            self.write(kept, kept.within(old_frame, old))

    def hold_all(self, *, lean: bool) -> None:
        """Make room for the whole map; ``lean`` in pages of its own, where there are such."""
        self.hold(0, 0 if lean else self.height)
        if lean:
            give_freed_memory_back()
            self.frame = self.frame._replace(bottom=self.height)
            count = self.height * self.width * self.dim
            if self.device.type == "cpu" and hasattr(mmap, "MADV_DONTNEED"):
                self.pages = mmap.mmap(-1, 4 * count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                flat = torch.frombuffer(self.pages, dtype=torch.float32)
            else:
                flat = torch.empty(count, device=self.device)
            self.data = flat.view(1, self.height, self.width, self.dim).permute(0, 3, 1, 2)

    def forget(self, top: int) -> None:
        """Give the pages of the rows above ``top`` back, if the map has some; they are not to be read again."""
        end = max(0, top) * self.width * self.dim * 4 // mmap.PAGESIZE * mmap.PAGESIZE
        if self.pages is not None and end:
            self.pages.madvise(mmap.MADV_DONTNEED, 0, end)

    def rewrite(self, compute: Callable[[Region], Tensor]) -> None:
        """Replace each region by what is computed from it and parts of its neighbours."""
        before: tuple[Region, Tensor] | None = None
        for region in self.regions:
            after = compute(region)
            if before is not None:  # the next region reads the end of this one, but nothing of the one before
                self.write(*before)
            before = region, after
        if before is not None:
            self.write(*before)
        if self.pages is not None:
            give_freed_memory_back()


def convolve_map(read: Read, region: Region, weight: Tensor) -> Tensor:
    """A 3×3 convolution's result on a region."""
    outer = region.grow(1)
    return convolve(read(outer), weight, padding=region.padding(outer, 1))


def move(network: MoCEIR, device: str) -> MoCEIR:
    """The network, moved to a device.

    Raises:
        ValueError: when the device cannot be used.
    """
    try:
        return network.to(device)
    except (RuntimeError, AssertionError) as error:  # torch's ways to say that there is none
        raise ValueError(f"device {device} cannot be used: {error}") from error


class Engine:
    """Restores as a network does, routes included, up to rounding; faster, with less memory and fewer multiply-adds.

    It has a copy of the weights as they are now, computes in float32, and restores a batch picture by picture.

    Args:
        network: what restores.
        mac_budget: GMACs at 1280×720 that no picture's route may exceed, the post-filter's 0.27 included; None for no
            limit. It counts what the engine does, which is less than what the network does.
        device: where to run, for example ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: when the budget is less than the cheapest route, or the device cannot be used.
    """

    def __init__(self, network: MoCEIR, *, mac_budget: float | None = None, device: str = "cpu") -> None:
        network = move(copy.deepcopy(network).float().eval(), device)
        self.device = network.embed.weight.device
        self.topk = network.topk
        # The picture's own layout is ambiguous, so the kernel says that maps are channels_last.
        self.embed = network.embed.weight.detach().contiguous(memory_format=torch.channels_last)
        self.output = network.output.weight.detach()
        self.down = [_kernel(layer) for layer in network.down]
        self.up, self.skip = [], []
        for up, fuse in zip(network.up, network.fuse, strict=True):
            kernel, skip = fold_upsampling(_kernel(up), Linear.of(cast(nn.Conv2d, fuse)))
            self.up.append(kernel)
            self.skip.append(skip)
        self.encoder = [_encoder_blocks(blocks) for blocks in network.encoder]
        self.latent = _encoder_blocks(network.latent)
        self.frequency = network.frequency
        self.decoder = [
            [FoldedDecoderBlock(block) for block in cast("Iterable[DecoderBlock]", blocks)]
            for blocks in network.decoder
        ]
        self.refinement = _encoder_blocks(network.refinement)
        # Regions are cut where windows of every size are, and are larger than what is read around them.
        self.alignment = math.lcm(16, *network.config["window_sizes"])
        #: Multiply-adds at 1280×720 of what runs, and the post-filter.
        self.route_costs = self.costs(REFERENCE_SIZE)
        check_budget(self.route_costs, mac_budget, self.topk)
        self.mac_budget = mac_budget

    def restore_and_route(self, x: Tensor, *, experts: Tensor | None = None) -> Restoration:
        """What :meth:`moceir.MoCEIR.restore_and_route` returns in evaluation.

        Args:
            x: (B, 3, H, W), RGB in [0, 1].
            experts: (layers, B, k) int64, the experts to take; None lets the routers choose.

        Raises:
            ValueError: when ``x`` is not a floating-point (B, 3, H, W) tensor, or empty.
        """
        check_pictures(x)
        restored = torch.empty_like(x)
        routings = []
        for index, picture in enumerate(x):
            choice = None if experts is None else experts[:, index : index + 1]

            def read(region: Region, picture: Tensor = picture) -> Tensor:
                return region.of(picture)[None].float()

            def write(region: Region, part: Tensor, index: int = index) -> None:
                region.of(restored)[index] = part[0]

            routings.append(self.run(read, write, *x.shape[-2:], experts=choice))
        return Restoration(restored, tuple(_join(layer) for layer in zip(*routings, strict=True)))

    @torch.inference_mode()
    def run(
        self, read: Read, write: Write, height: int, width: int, *, experts: Tensor | None = None
    ) -> tuple[Routing, ...]:
        """Restore one picture that is read and written region by region.

        Args:
            read: gives a region of the picture, (1, 3, h, w), float32 in [0, 1], anywhere; may be asked repeatedly.
            write: takes regions of the restored picture, (1, 3, h, w), not clamped; each pixel once.
            height, width: of the picture.
            experts: (layers, 1, k) int64, the experts to take; None lets the routers choose.

        Returns:
            How each layer routed it.
        """
        levels = self._levels(height, width)
        lean = height * width > LEAN_FROM
        read_padded = partial(_read_padded, read, height, width)

        def fresh(level: int) -> Map:
            whole = Map(levels[level], len(self.embed) << level, self.device)
            whole.hold_all(lean=lean)
            return whole

        current = fresh(0)
        reread: Read = partial(convolve_map, read_padded, weight=self.embed)
        for region in current.regions:
            current.write(region, reread(region))
        skips: list[Map | None] = []
        for level, (blocks, down) in enumerate(zip(self.encoder, self.down, strict=True)):
            for block in blocks:
                attend = self._encode(block, current)
                if level == 0:
                    reread = partial(block.update, reread, attend=attend)
            deeper = fresh(level + 1)
            again = level == 0 and height * width > REREAD_FROM
            for region in deeper.regions:
                if again:
                    current.forget(region.doubled().top - 1)
                deeper.write(region, F.pixel_unshuffle(convolve_map(current.read, region.doubled(), down), 2))
            skips.append(None if again else current)
            current = deeper
        for block in self.latent:
            self._encode(block, current)
        frequency = self.frequency(current.data)

        routings: list[Routing] = []
        spent = torch.zeros(1, dtype=torch.int64, device=self.device)
        for up, skip, decoder in zip(self.up, self.skip, self.decoder, strict=True):
            kept = skips.pop()
            again = lean and not skips
            upper, read_skip = (fresh(0), reread) if kept is None else (kept, kept.read)
            for region in upper.regions:
                half = region.halved()
                current.forget(half.top - 1)
                fused = F.pixel_shuffle(convolve_map(current.read, half, up), 2)
                upper.write(region, skip(read_skip(region)).add_(fused))
            current = upper
            for decoder_block in decoder:
                layer = len(routings)
                rules = RoutingRules(
                    budget=layer_budget(self.route_costs, self.mac_budget, topk=self.topk, layer=layer, spent=spent),
                    experts=None if experts is None else experts[layer],
                )
                routings.append(self._decode(decoder_block, current, frequency, rules, again=again))
                if rules.budget is not None:
                    spent = spent + rules.budget.costs[routings[-1].experts].sum(dim=1)
        for block in self.refinement:
            self._encode(block, current)
        for region in current.regions:
            current.forget(region.top - 1)
            part = convolve_map(current.read, region, self.output).add_(read_padded(region))
            inside = region._replace(bottom=min(region.bottom, height), right=min(region.right, width))
            write(inside._replace(height=height, width=width), inside.within(region, part))
        return tuple(routings)

    def _levels(self, height: int, width: int) -> list[list[Region]]:
        """The regions of each level's map."""
        height, width = padded_size(len(self.down), (height, width))
        return [
            regions_of(len(self.embed) << level, height >> level, width >> level, self.alignment)
            for level in range(len(self.down) + 1)
        ]

    def _encode(self, block: FoldedEncoderBlock, current: Map) -> Linear:
        """Run a block on a map; what it does with its values."""
        gram = Gram(block.attention)
        for region in current.regions:
            block.look(current.read, region, gram)
        attend = gram.matrix().single()
        current.rewrite(lambda region: block.update(current.read, region, attend))
        return attend

    def _decode(
        self, block: FoldedDecoderBlock, current: Map, frequency: Tensor, rules: RoutingRules, *, again: bool
    ) -> Routing:
        """Run a block on a map; ``again``: compute the shared expert's values twice rather than keep them."""
        gram = Gram(block.shared)
        total = torch.stack([block.look(current.read, region, gram) for region in current.regions]).sum(0)
        mean = block.routed_mean(total / (current.height * current.width))
        routing: Routing = block.router(mean, frequency, rules)
        route = block.route(gram.matrix(), routing.experts[0], routing.gates[0])
        values, attend = self._attend_across(block, current, route, again=again)
        current.rewrite(lambda region: block.update(current.read, values, region, route, attend))
        return routing

    def _attend_across(
        self, block: FoldedDecoderBlock, current: Map, route: Route, *, again: bool
    ) -> tuple[Read, Linear]:
        """The second pass: the shared expert's values, and what the cross-attention does with its own."""
        gram = Gram(block.cross_attention)
        dim = len(gram.products)
        queries, values = (Map(current.regions, dim, self.device) for _ in range(2))
        if not again:
            values.hold_all(lean=False)
        done = 0
        for region in current.regions:
            above = max(0, region.top - 2 * block.REACH)
            for rows in (queries, values) if again else (queries,):
                rows.hold(above, region.bottom)
            query, value = block.mix(current.read, region, route)
            queries.write(region, query)
            values.write(region, value)
            # Keys depend on rows of the next region, so they lag behind by that many.
            ready = current.height if region.bottom == current.height else region.bottom - block.REACH
            block.look_across(queries.read, values.read, region._replace(top=done, bottom=ready), route, gram)
            done = ready
        read = partial(block.values, current.read) if again else values.read
        return read, gram.matrix().single()

    def costs(self, size: tuple[int, int]) -> RouteCosts:
        """Multiply-adds of every route for a picture of a height and width, the post-filter included."""
        levels = self._levels(*size)

        def macs(level: int, work: Iterable[Work]) -> int:
            return sum(
                one.macs * convolved_pixels(region.grow(one.margin), one.reach)
                for one in work
                for region in levels[level]
            )

        def kernel_macs(weight: Tensor, regions: Iterable[Region]) -> int:
            return weight.numel() * sum(convolved_pixels(region, 1) for region in regions)

        latent = len(self.down)
        blocks = [*enumerate(self.encoder), (latent, self.latent), (0, self.refinement)]
        base = sum(macs(level, block.work) for level, encoder in blocks for block in encoder)
        base += kernel_macs(self.embed, levels[0]) + kernel_macs(self.output, levels[0])
        for level, down in enumerate(self.down):
            base += kernel_macs(down, [region.doubled() for region in levels[level + 1]])
        whole = levels[latent][0]
        base += self.frequency.high_pass.weight.numel() * whole.height * whole.width
        base += sum(layer.weight.numel() for layer in self.frequency.mlp if isinstance(layer, nn.Linear))
        experts = []
        for step, (up, skip, decoder) in enumerate(zip(self.up, self.skip, self.decoder, strict=True)):
            level = latent - 1 - step
            base += kernel_macs(up, [region.halved() for region in levels[level]]) + macs(level, [skip.work()])
            height, width = levels[level][0].height, levels[level][0].width
            for block in decoder:
                base += macs(level, block.work)
                base += block.router.features.weight.numel() + block.router.frequency.weight.numel()
                experts.append(tuple(macs(level, e.work) + window_macs(e.mixer, height, width) for e in block.experts))
        if math.prod(size) > LEAN_FROM:
            base += sum(macs(0, block.values_work) for block in self.decoder[-1])
        if math.prod(size) > REREAD_FROM:
            margin = 0
            for encoder_block in reversed(self.encoder[0]):
                base += macs(0, widened(encoder_block.update_work, margin))
                margin += encoder_block.REACH
            base += kernel_macs(self.embed, [region.grow(margin) for region in levels[0]])
        return RouteCosts(base + POST_FILTER_MACS_PER_PIXEL * math.prod(size), tuple(experts))


def _encoder_blocks(blocks: nn.Module) -> list[FoldedEncoderBlock]:
    return [FoldedEncoderBlock(block) for block in cast("Iterable[EncoderBlock]", blocks)]


def _kernel(resampling: nn.Module) -> Tensor:
    """The convolution's, of a :class:`~moceir.network.layers.Downsample` or ``Upsample``."""
    return cast(nn.Conv2d, cast(nn.Sequential, resampling)[0]).weight.detach()


def fold_upsampling(kernel: Tensor, fuse: Linear) -> tuple[Tensor, Linear]:
    """Fold the 1×1 after an upsampling and its skip into the upsampling's convolution.

    Args:
        kernel: (4c, C, 3, 3), of the convolution before the pixel shuffle.
        fuse: (o, 2c), of the upsampled map and the skip.

    Returns:
        The convolution's (4o, C, 3, 3), and what is added of the skip.
    """
    dim = fuse.weight.shape[1] // 2
    # The shuffle takes pixel (2y + i, 2x + j) of channel c from output 4c + 2i + j.
    folded = torch.einsum("oc,cpiyx->opiyx", fuse.weight[:, :dim], kernel.double().unflatten(0, (dim, 4)))
    return folded.flatten(0, 1).float(), Linear(fuse.weight[:, dim:]).single()


def _read_padded(read: Read, height: int, width: int, region: Region) -> Tensor:
    """A region of a picture that is continued by its last row and column."""
    inside = Region(
        min(region.top, height - 1),
        min(region.bottom, height),
        min(region.left, width - 1),
        min(region.right, width),
        height,
        width,
    )
    part = read(inside).contiguous(memory_format=torch.channels_last)
    missing = (0, region.right - region.left - part.shape[3], 0, region.bottom - region.top - part.shape[2])
    return F.pad(part, missing, mode="replicate") if any(missing) else part


def _join(routings: tuple[Routing, ...]) -> Routing:
    """One layer's decisions on several pictures, as one batch."""
    return Routing(
        logits=torch.cat([routing.logits for routing in routings]),
        gates=torch.cat([routing.gates for routing in routings]),
        experts=torch.cat([routing.experts for routing in routings]),
        importance=torch.stack([routing.importance for routing in routings]).mean(dim=0),
        load=torch.stack([routing.load for routing in routings]).mean(dim=0),
    )
