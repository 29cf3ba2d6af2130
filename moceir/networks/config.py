"""Configurations of networks: plain values that are checked once and never change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The arguments of a network, all but the budget, which may change. Sequences become tuples.

    Raises:
        ValueError: when an argument is out of range; the message names it.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Sequence) and not isinstance(value, str):
                object.__setattr__(self, field.name, tuple(value))
        self.check()

    def check(self) -> None:
        """Raise ValueError when an argument is out of range."""

    def plain(self) -> dict[str, Any]:
        """Return the arguments as JSON and YAML hold them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
