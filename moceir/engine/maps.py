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
    """How a map is cut: into strips of equally many rows, the last one smaller.

    Args:
        height: of the map.
        size: rows of a strip.
    """

    def __init__(self, height: int, size: int) -> None:
        self.height = height
        self.size = size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """First row of each strip, and the row behind its last."""
        return ((top, min(self.height, top + self.size)) for top in range(0, self.height, self.size))

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
        size = self.rows.size
        pieces = []
        for index in range(top // size, -(-bottom // size)):
            strip = self.strips[index]
            if strip is None:
                raise ValueError(f"row {index * size} was let go")
            start = index * size
            pieces.append(strip[:, :, max(0, top - start) : bottom - start])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)

    def let_go(self, top: int) -> None:
        """Forget strips that lie above a row."""
        for index in range(min(len(self.strips), max(0, top) // self.rows.size)):
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
