"""Checks types and shapes at run time, and takes an int for a float, as mypy does."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check every call of a function, but not of functions inside it: the code that checks would be built each time."""
    return function if "<locals>" in function.__qualname__ else _check(function)
