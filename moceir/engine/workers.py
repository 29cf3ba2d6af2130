"""Threads that each run whole strips; an operation uses only the thread that calls it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import threadpoolctl
import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """A pool of threads.

    Operations are not split among threads: each thread has its own strip, no thread waits for the slowest after every
    operation, and waiting threads sleep. The settings of other threads do not change.

    Args:
        threads: the number of threads.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, "moceir", initializer=use_one_thread)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield results in the order of the items; only a few more calls run or wait than there are threads."""
        running: deque[Future[Result]] = deque()
        try:
            for item in items:
                running.append(self._pool.submit(_infer, function, item))
                if len(running) > 2 * self.threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def use_one_thread() -> None:
    """Stop PyTorch from splitting the calling thread's operations among threads."""
    # OpenMP keeps its number of threads for each calling thread. PyTorch sets it once in each new thread, when first
    # asked for it, so ask before setting the limit.
    torch.get_num_threads()
    threadpoolctl.threadpool_limits(1, user_api="openmp")


@torch.inference_mode()
def _infer(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)
