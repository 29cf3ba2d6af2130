"""Maps of one picture, in strips of whole rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from moceir.networks.strips import Halo


@runtime_checkable
class Readable(Protocol):
    """A map whose rows can be read."""

    def read(self, top: int, bottom: int) -> Float[Tensor, "1 c {bottom-top} w"]:
        """Return rows ``top`` to ``bottom``."""
        ...


class Rows:
    """The division of a map into strips: all have the same number of rows, except the last.

    Every strip is at least as tall as the halo that its neighbours read, so a halo is complete unless the map ends
    there.

    Args:
        height: rows of the map.
        size: rows of a strip, at least ``least``.
        least: minimum rows of the last strip, if there are several.
    """

    def __init__(self, height: int, size: int, least: int) -> None:
        self.height = height
        self.size = size
        self.count = max(1, height // size + (height % size >= least))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield each strip's first row and the row after its last."""
        tops = [index * self.size for index in range(self.count)]
        return zip(tops, [*tops[1:], self.height], strict=True)

    def strip(self, row: int) -> int:
        """Return the index of the strip that contains a row."""
        return min(row // self.size, self.count - 1)

    def grown(self, top: int, bottom: int, reach: int) -> tuple[int, int, Halo]:
        """Extend a strip by up to ``reach`` rows on each side, as far as the map allows."""
        halo = Halo(min(reach, top), min(reach, self.height - bottom), top)
        return top - halo.above, bottom + halo.below, halo


class Map:
    """A map in memory, as strips from the top. Strips that are no longer needed can be released."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.strips: list[Tensor | None] = []

    def read(self, top: int, bottom: int) -> Float[Tensor, "1 c {bottom-top} w"]:
        """Return rows ``top`` to ``bottom``; a view if they lie in one strip."""
        pieces = []
        for index in range(self.rows.strip(top), self.rows.strip(bottom - 1) + 1):
            strip, start = self.strips[index], index * self.rows.size
            if strip is None:
                raise ValueError(f"the strip at row {start} has been released")
            pieces.append(strip[:, :, max(0, top - start) : bottom - start])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)

    @property
    def nbytes(self) -> int:
        """The bytes of the strips in memory."""
        return sum(strip.nbytes for strip in self.strips if strip is not None)

    def release(self, top: int) -> None:
        """Release the strips that lie above a row."""
        for index in range(min(len(self.strips), self.rows.strip(max(0, top)))):
            self.strips[index] = None


class Computed:
    """A map that is not stored: every read computes the rows again.

    Args:
        source: the input map, of the same size.
        rows: the division of the map.
        steps: (reach, function) pairs, applied in order. A function reads ``reach`` rows around a strip: it takes rows
            with their halo and returns them without.
    """

    def __init__(
        self, source: Readable, rows: Rows, steps: Sequence[tuple[int, Callable[[Tensor, Halo], Tensor]]]
    ) -> None:
        self.source = source
        self.rows = rows
        self.steps = steps

    def read(self, top: int, bottom: int) -> Float[Tensor, "1 c {bottom-top} w"]:
        """Compute rows ``top`` to ``bottom``."""
        around = sum(reach for reach, _ in self.steps)
        first, last, _ = self.rows.grown(top, bottom, around)
        x = self.source.read(first, last)
        for reach, step in self.steps:
            around -= reach
            next_first, next_last, _ = self.rows.grown(top, bottom, around)
            x = step(x, Halo(next_first - first, last - next_last, next_first))
            first, last = next_first, next_last
        return x
