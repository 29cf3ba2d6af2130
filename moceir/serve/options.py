"""The options that a request may set in its query, and their bounds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Number(NamedTuple):
    """A number within bounds."""

    low: float
    high: float
    whole: bool = False

    def read(self, text: str) -> float | int:
        """Return the number that a text contains.

        Raises:
            ValueError: when the text is not such a number.
        """
        kind = "whole number" if self.whole else "number"
        expected = f"give a {kind} from {self.low:g} to {self.high:g}"
        try:
            value = int(text) if self.whole else float(text)
        except ValueError:
            raise ValueError(expected) from None
        if not self.low <= value <= self.high:  # NaN, too
            raise ValueError(expected)
        return value


class Flag(NamedTuple):
    """A switch: on or off."""

    def read(self, text: str) -> bool:
        """Return whether a text switches the option on.

        Raises:
            ValueError: when the text is not 0, 1, false, or true.
        """
        if text not in ("0", "1", "false", "true"):
            raise ValueError("give 0 or 1")
        return text in ("1", "true")


class Suffix(NamedTuple):
    """The suffix of a file's name."""

    def read(self, text: str) -> str:
        """Return the suffix with its dot, in lower case.

        Raises:
            ValueError: when it contains anything but letters and digits.
        """
        if not re.fullmatch(r"\.?[A-Za-z0-9]{1,8}", text):
            raise ValueError("give what comes behind the dot of a file's name, as in png")
        return f".{text.lower().removeprefix('.')}"


Kind = Number | Flag | Suffix
Options = dict[str, float | int | str | bool]

#: Degradations that are applied first, to show how well the picture can be restored.
DEGRADING: Mapping[str, Kind] = {
    "blur": Number(0, 10),  # radius of a lens that is out of focus, in pixels
    "noise": Number(0, 100),  # σ on the 0–255 scale
    "jpeg": Number(1, 100, whole=True),  # quality
    "suffix": Suffix(),  # of the picture's name; camera raw is recognised by nothing else
}

RESTORING: Mapping[str, Kind] = {
    **DEGRADING,
    "strength": Number(0, 1),
    "texture": Number(0, 1),
    "filter": Flag(),
    "mac_budget": Number(0, 1e6),  # 0 for none
    "expert": Number(0, 15, whole=True),
    "format": Suffix(),
    "quality": Number(1, 100, whole=True),
}


def read_query(query: Iterable[tuple[str, str]], kinds: Mapping[str, Kind]) -> Options:
    """Read the options in a query.

    Raises:
        ValueError: when one is unknown, given twice, or out of bounds; the message names it.
    """
    options: Options = {}
    for name, text in query:
        if name not in kinds:
            raise ValueError(f"no option {name[:40]!r}; there are {', '.join(sorted(kinds))}")
        if name in options:
            raise ValueError(f"{name} is given twice")
        try:
            options[name] = kinds[name].read(text)
        except ValueError as error:
            raise ValueError(f"{name}={text[:40]}: {error}") from None
    return options
