"""Maps of one picture, in strips of whole rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from moceir.networks.strips import Halo


class Readable(Protocol):
    """What rows can be read of."""

    def read(self, top: int, bottom: int) -> Tensor:
        """Rows ``top`` to ``bottom``, (1, C, bottom - top, W)."""
        ...


class Rows:
    """How a map is cut: into strips of equally many rows, but for the last one.

    No strip is so small that what is read around another goes beyond it: a halo is whole, or there is none because the
    map ends there.

    Args:
        height: of the map.
        size: rows of a strip, at least ``least``.
        least: rows that the last strip has at least, if there are several.
    """

    def __init__(self, height: int, size: int, least: int) -> None:
        self.height = height
        self.size = size
        self.count = max(1, height // size + (height % size >= least))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """First row of each strip, and the row behind its last."""
        tops = [index * self.size for index in range(self.count)]
        return zip(tops, [*tops[1:], self.height], strict=True)

    def strip(self, row: int) -> int:
        """The number of the strip that a row lies in."""
        return min(row // self.size, self.count - 1)

    def grown(self, top: int, bottom: int, reach: int) -> tuple[int, int, Halo]:
        """A strip with as many rows around it as ``reach`` and the map allow."""
        halo = Halo(min(reach, top), min(reach, self.height - bottom))
        return top - halo.above, bottom + halo.below, halo


class Map:
    """A map that is there: its strips, from the top. Strips above those that are still needed can be let go."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.strips: list[Tensor | None] = []

    def read(self, top: int, bottom: int) -> Tensor:
        """Rows ``top`` to ``bottom``; a view where they lie in one strip."""
        pieces = []
        for index in range(self.rows.strip(top), self.rows.strip(bottom - 1) + 1):
            strip, start = self.strips[index], index * self.rows.size
            if strip is None:
                raise ValueError(f"row {start} was let go")
            pieces.append(strip[:, :, max(0, top - start) : bottom - start])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)

    def let_go(self, top: int) -> None:
        """Forget strips that lie above a row."""
        for index in range(min(len(self.strips), self.rows.strip(max(0, top)))):
            self.strips[index] = None


class Computed:
    """A map that is computed anew, rows at a time, whenever it is read.

    Args:
        source: what it is computed from, of the same size.
        rows: of the map.
        steps: one after the other, with the rows around a strip each reads; they take rows and their halo and give the
            rows without.
    """

    def __init__(
        self, source: Readable, rows: Rows, steps: Sequence[tuple[int, Callable[[Tensor, Halo], Tensor]]]
    ) -> None:
        self.source = source
        self.rows = rows
        self.steps = steps

    def read(self, top: int, bottom: int) -> Tensor:
        """Rows ``top`` to ``bottom``."""
        around = sum(reach for reach, _ in self.steps)
        first, last, _ = self.rows.grown(top, bottom, around)
        x = self.source.read(first, last)
        for reach, step in self.steps:
            around -= reach
            next_first, next_last, _ = self.rows.grown(top, bottom, around)
            x = step(x, Halo(next_first - first, last - next_last))
            first, last = next_first, next_last
        return x
