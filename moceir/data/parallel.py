"""Processes many files in parallel, with a progress bar."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(
    function: Callable[[Item], Result], items: Collection[Item], *, workers: int, description: str
) -> Iterator[Result]:
    """Apply a function to each item in threads, and yield the results in the order of the items.

    Threads suffice, because decoding and encoding release Python's global lock. Only a few results wait in memory at
    any time.
    """
    console = Console(stderr=True)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in track(items, description, console=console, transient=True, disable=not console.is_terminal):
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
