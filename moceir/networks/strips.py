"""Runs a part of a network on a whole map, or strip by strip with the same result.

What keeps a network from running strip by strip is only that some parts need sums over the whole picture: channel
attention, routers, embeddings. So a :class:`Block` has passes. Each but the last sums something over a strip; between
passes, the sums of all strips are concluded from; the last pass computes the block's result. Each pass reads a few rows
around its strip, the halo. A whole map is one strip without halo.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moceir.networks.routes import Run


class Halo(NamedTuple):
    """The rows that were read above and below a strip; fewer than asked for where the map ends."""

    above: int = 0
    below: int = 0
    top: int = 0
    """The row of the map at which the strip itself begins."""

    def crop(self, x: Float[Tensor, "b c h w"], keep: int = 0) -> Float[Tensor, "b c rows w"]:
        """Crop this halo off a map, except for up to ``keep`` rows on each side."""
        return x[:, :, max(0, self.above - keep) : x.shape[2] - max(0, self.below - keep)]

    def less(self, keep: int) -> Halo:
        """Return the halo that :meth:`crop` leaves."""
        return Halo(min(self.above, keep), min(self.below, keep), self.top)

    def after(self, reach: int) -> Halo:
        """Return the rest of the halo after a convolution that reads ``reach`` rows up and down."""
        return Halo(max(0, self.above - reach), max(0, self.below - reach), self.top)


NO_HALO = Halo()


class Sums(tuple[Tensor, ...]):
    """Sums over the pixels of a strip."""

    def plus(self, below: Sums) -> Sums:
        """Return the sums over this strip and the next one below it."""
        return type(self)(one + other for one, other in zip(self, below, strict=True))

    def double(self) -> Sums:
        """Return the sums in double precision, for adding."""
        return type(self)(one.double() for one in self)


class Strip(NamedTuple):
    """The rows of a map that a pass of a block reads."""

    x: Float[Tensor, "b c h w"]
    """The strip and its halo."""
    prepared: Any
    """The result of the block's ``prepare`` on ``x``."""
    kept: Float[Tensor, "b c h w"] | None
    """The map that an earlier pass kept, with the same halo."""
    halo: Halo


class Block(nn.Module):
    """A part that keeps a map's size. Subclasses without sums override :meth:`update` alone.

    Attributes:
        reaches: the rows around a strip that each pass reads, a number for each sum and one for :meth:`update`.
        alignment: every strip begins at a multiple of this number of rows.
        keeps: the number of the pass that keeps a map for the last one; None for no such pass.
        rewrites: whether the result differs from the input.
    """

    reaches: tuple[int, ...] = (0,)
    alignment: int = 1
    keeps: int | None = None
    rewrites: bool = True

    def forward(self, x: Float[Tensor, "b c h w"], run: Run) -> Float[Tensor, "b c h w"]:
        """Return the block's result on a whole map; ``run`` is what the parts of the network pass to each other."""
        prepared = self.prepare(x)
        kept: Tensor | None = None
        known: list[Any] = []
        for _ in self.reaches[1:]:
            sums, kept = self.summarise(Strip(x, prepared, kept, NO_HALO), known)
            known.append(self.conclude(sums, known, run))
        return self.update(Strip(x, prepared, kept, NO_HALO), known)

    def prepare(self, x: Float[Tensor, "b c h w"]) -> Any:
        """Compute what every pass needs."""
        return x

    def summarise(self, strip: Strip, known: list[Any]) -> tuple[Sums, Float[Tensor, "b c h w"] | None]:
        """Run pass number ``len(known)``: return sums over the strip, and a map that later passes need, or None."""
        raise NotImplementedError(f"{type(self).__name__} has sums but no summarise")

    def conclude(self, sums: Sums, known: list[Any], run: Run) -> Any:
        """Return what follows from the sums of all strips, once for the batch."""
        return sums

    def update(self, strip: Strip, known: list[Any]) -> Float[Tensor, "b c h w"]:
        """Return the block's result on the strip, without its halo."""
        raise NotImplementedError(f"{type(self).__name__} has no update")

    @property
    def reach(self) -> int:
        """The rows around a strip that :meth:`recompute` reads."""
        return self.reaches[-1] + (0 if self.keeps is None else self.reaches[self.keeps])

    def recompute(self, x: Float[Tensor, "b c h w"], halo: Halo, known: list[Any]) -> Float[Tensor, "b c rows w"]:
        """Compute the block's result on a strip again, given what follows from the sums."""
        inner = halo.less(self.reaches[-1])
        outer = Halo(halo.above - inner.above, halo.below - inner.below, halo.top - inner.above)
        kept = None
        if self.keeps is not None:
            _, kept = self.summarise(Strip(x, self.prepare(x), None, outer), known[: self.keeps])
        x = outer.crop(x)
        return self.update(Strip(x, self.prepare(x), kept, inner), known)


def sum_over_pixels(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
    """Sum over the pixels of a map."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).sum(dim=1)  # faster on one axis than on two


def pixels(x: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Return the number of pixels of a map as a tensor, also while the network is traced."""
    return torch.as_tensor(x.shape[2] * x.shape[3], dtype=x.dtype, device=x.device)


def add_up(sums: Iterable[Sums]) -> Sums:
    """Add the sums of all strips from top to bottom, in double precision."""
    total: Sums | None = None
    for one in sums:
        total = one.double() if total is None else total.plus(one.double())
    if total is None:
        raise ValueError("a map without strips")
    return total
