"""The second network with experts: several alternatives for the blocks behind its encoder, one for each picture.

One router decides once for a picture, from what the encoder has found. Its experts are whole paths through the network,
so that they can differ in what they do, not in a detail of it; they start as copies of trained blocks without
alternatives (sparse upcycling, Komatsuzaki et al., ICLR 2023, arXiv 2212.05055).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moceir.networks.grid import FOUND, Grid
from moceir.networks.naf import GatedBlock, NAFNet, NAFNetConfig
from moceir.networks.neighbourhoods import ROWS
from moceir.networks.routes import RouteCosts, Run
from moceir.networks.routing import PictureRouter
from moceir.networks.strips import Block, Strip, Sums
from moceir.networks.unet import Part, UNet


class RoutedBlock(Block):
    """Gated blocks of several widths, of which a picture passes through the one that its route names.

    First pass: none, it only learns the route. The others are the chosen block's.

    Args:
        dim: channels of the map.
        widths: of each expert's block.
        sides: of the neighbourhoods of each expert's channel attention; None for the whole picture.
    """

    reaches = (0, *GatedBlock.reaches)
    keeps = 1 + GatedBlock.keeps

    def __init__(self, *, dim: int, widths: Sequence[float], sides: Sequence[int | None]) -> None:
        super().__init__()
        experts = [GatedBlock(dim=dim, width=width, side=side) for width, side in zip(widths, sides, strict=True)]
        self.experts = nn.ModuleList(experts)
        self.alignment = math.lcm(*(expert.alignment for expert in experts))

    def forward(self, x: Float[Tensor, "b c h w"], run: Run) -> Float[Tensor, "b c h w"]:
        """Pass each picture through its expert; the pictures of an expert pass through it together."""
        taken = run.routings[-1].experts[:, 0].to(x.device)
        groups = [(taken == index).nonzero()[:, 0] for index in range(len(self.experts))]
        used = [(expert, group) for expert, group in zip(self.experts, groups, strict=True) if len(group)]
        if len(used) == 1:
            return cast(Tensor, used[0][0](x, run))
        results = torch.cat([expert(x.index_select(0, group), run) for expert, group in used])
        return results.index_select(0, torch.cat([group for _, group in used]).argsort())

    def summarise(self, strip: Strip, known: list[Any]) -> tuple[Sums, Float[Tensor, "b c h w"] | None]:
        """Return the chosen block's sums."""
        return known[0].summarise(strip, known[1:]) if known else (Sums(()), None)

    def conclude(self, sums: Sums, known: list[Any], run: Run) -> Any:
        """Return the chosen block's number, and that block's conclusion."""
        return known[0].conclude(sums, known[1:], run) if known else self.experts[int(run.routings[-1].experts[0, 0])]

    def update(self, strip: Strip, known: list[Any]) -> Float[Tensor, "b c h w"]:
        """Return the chosen block's result."""
        return cast(Tensor, known[0].update(strip, known[1:]))


@dataclass(frozen=True, kw_only=True)
class NAFMixtureConfig(NAFNetConfig):
    """The arguments of :class:`NAFMixture`, which says what each one means."""

    widths: Sequence[float] = (0.5, 1, 1, 1)
    neighbourhoods: Sequence[int] = ()
    grid: bool = False
    router_width: int = 32

    @property
    def kinds(self) -> list[tuple[float, int]]:
        """The width and the neighbourhood of each expert."""
        return list(zip(self.widths, self.neighbourhoods or [0] * len(self.widths), strict=True))

    def check(self) -> None:
        """Raise ValueError when an argument is out of range."""
        super().check()
        if not 2 <= len(self.widths) <= 6 or not all(0 < width <= 4 for width in self.widths):
            raise ValueError(f"widths={list(self.widths)}: give 2 to 6 of them, each above 0 and not above 4")
        multiple = ROWS << (len(self.num_blocks) - 1)
        if len(self.neighbourhoods) not in (0, len(self.widths)) or any(
            s < 0 or s % multiple for s in self.neighbourhoods
        ):
            raise ValueError(
                f"neighbourhoods={list(self.neighbourhoods)}: give one for each of the {len(self.widths)} widths, "
                f"or none: 0 for the whole picture or a multiple of {multiple}"
            )
        if self.router_width < 1:
            raise ValueError(f"router_width={self.router_width}: give 1 or more")
        if not self.num_blocks[-1] + sum(self.num_decoder_blocks):
            raise ValueError("num_blocks and num_decoder_blocks: there is no block behind the encoder to have experts")


class NAFMixture(NAFNet):
    """A :class:`~moceir.NAFNet` with separate latent and decoder blocks for each expert.

    A picture takes the same expert in all of them, so there is one routed layer, and no picture costs more than the
    widest expert's path.

    Args:
        widths: of each expert's blocks, 2 to 6 of them; 1 is the width of a NAFNet's.
        neighbourhoods: for each expert, the pixels of a side of the squares whose means its channel attention sees, a
            multiple of 16 · 2^(levels - 1); 0, or none for all, for the mean over the picture.
        grid: whether the router sees the grid that JPEG leaves in a picture.
        router_width: of the router's hidden layer.
        dim, num_blocks, num_decoder_blocks, mac_budget: as of :class:`~moceir.NAFNet`.

    Raises:
        ValueError: when an argument is out of range; the message names it.
    """

    num_layers = 1
    topk = 1
    Settings = NAFMixtureConfig
    settings: NAFMixtureConfig

    def __init__(self, *, mac_budget: float | None = None, **arguments: Any) -> None:
        super().__init__(mac_budget=mac_budget, **arguments)
        self.num_experts = len(self.settings.widths)

    def parts(self) -> Iterator[Part]:
        """Yield every part in the order they run."""
        if self.grid is not None:
            yield Part("grid", "block", 0, self.grid)
        yield from super().parts()

    def _decoding(self, dim: int, count: int) -> nn.Sequential:
        level = (dim // self.settings.dim).bit_length() - 1
        sides = [side >> level or None for _, side in self.settings.kinds]
        return nn.Sequential(*(RoutedBlock(dim=dim, widths=self.settings.widths, sides=sides) for _ in range(count)))

    def _latent(self, dim: int, count: int) -> nn.Sequential:
        complexity = [width / max(self.settings.widths) for width in self.settings.widths]
        before = [block for block in self.encoder.modules() if isinstance(block, GatedBlock)]
        found = sum(block.project1.in_channels for block in before) + (FOUND if self.settings.grid else 0)
        self.grid = Grid() if self.settings.grid else None
        return nn.Sequential(
            PictureRouter(dim=dim, found=found, complexity=complexity, width=self.settings.router_width),
            *self._decoding(dim, count),
        )

    @cached_property
    def route_costs(self) -> RouteCosts:
        """The costs of every route; all blocks of an expert are one choice."""
        costs = super().route_costs
        return RouteCosts(costs.base, (tuple(sum(blocks) for blocks in zip(*costs.experts, strict=True)),))

    @torch.no_grad()
    def start_from(self, trained: UNet) -> None:
        """Take another network's weights.

        Those of a NAFNet become every expert's, as far as its width goes. Those of a mixture with fewer experts become
        the first experts'; each further one starts as a copy of the first with its width and neighbourhood, so that the
        router's choices first mean the same.
        """
        fewer = isinstance(trained, NAFMixture) and trained.num_experts < self.num_experts
        if not fewer and type(trained) is not NAFNet:
            super().start_from(trained)
            return
        mine, theirs = self.settings.plain(), cast(NAFNet, trained).settings.plain()
        other = [name for name in theirs if theirs[name] != mine[name] and name not in ("widths", "neighbourhoods")]
        if other:
            raise ValueError(f"its network, {trained.config}, has other blocks than this one, {self.config}")
        if fewer:
            self._start_from_fewer(cast(NAFMixture, trained))
        else:
            self._start_from_one(cast(NAFNet, trained))

    def _start_from_one(self, trained: NAFNet) -> None:
        theirs = dict(trained.named_modules())
        for name, module in self.named_modules():
            if isinstance(module, RoutedBlock):
                stem, _, index = name.rpartition(".")
                source = cast(GatedBlock, theirs[f"{stem}.{int(index) - (stem == 'latent')}"])
                for expert in module.experts:
                    _inherit(cast(GatedBlock, expert), source)
        shared = {name: tensor for name, tensor in trained.state_dict().items() if name in self.state_dict()}
        self.load_state_dict(shared, strict=False)

    def _start_from_fewer(self, trained: NAFMixture) -> None:
        mine, theirs = self.settings.kinds, trained.settings.kinds
        if mine[: len(theirs)] != theirs or not set(mine) <= set(theirs):
            raise ValueError(
                f"widths and neighbourhoods of its experts are {theirs}, and here {mine}: begin with its experts, and "
                "add some that have the width and the neighbourhood of one of them"
            )
        sources = [*range(len(theirs)), *(theirs.index(kind) for kind in mine[len(theirs) :])]
        state = trained.state_dict()
        for name in self.state_dict():
            stem, routed, rest = name.partition(".experts.")
            if routed:
                expert, _, parameter = rest.partition(".")
                state[name] = state[f"{stem}.experts.{sources[int(expert)]}.{parameter}"]
            elif name.startswith("latent.0.mlp.3."):  # the router's last layer has a row for each expert
                state[name] = state[name][sources]
        self.load_state_dict(state)


def _inherit(block: GatedBlock, source: GatedBlock) -> None:
    """Copy to a block the most important gated channels of another block; its other channels start without effect."""
    mine, theirs = dict(block.named_parameters()), dict(source.named_parameters())
    for name in ("norm1.weight", "norm1.bias", "gain1", "norm2.weight", "norm2.bias", "gain2"):
        mine[name].copy_(theirs[name])
    for expansions, projection in ((("expand1", "mix"), "project1"), (("expand2",), "project2")):
        new, old = (one[f"{projection}.weight"] for one in (mine, theirs))
        gated, had = new.shape[1], old.shape[1]
        kept = old.flatten(1).norm(dim=0).topk(min(gated, had)).indices.sort().values
        count = len(kept)
        new.zero_()[:, :count] = old[:, kept]
        mine[f"{projection}.bias"].copy_(theirs[f"{projection}.bias"])
        first = torch.arange(count)
        for name in (f"{layer}.{kind}" for layer in expansions for kind in ("weight", "bias")):
            mine[name][torch.cat([first, first + gated])] = theirs[name][torch.cat([kept, kept + had])]
        if projection == "project1":
            mine["attention.weight"][:count] = 0
            mine["attention.weight"][:count, :count] = theirs["attention.weight"][kept][:, kept]
            mine["attention.bias"][:count] = theirs["attention.bias"][kept]
