"""Threads that each run whole strips, with operations of one thread each."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import threadpoolctl
import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Cores this process may use: by affinity, and by the quota of its control group, rounded up."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = quota(Path("/sys/fs/cgroup"))
    return max(1, affinity if limit is None else min(affinity, limit))


def quota(root: Path) -> int | None:
    """Cores by quota, as control groups of version 2 or 1 state it; None for no limit."""
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            limit, period = " ".join((root / file).read_text() for file in files).split()
            return None if limit in ("max", "-1") else -(-int(limit) // int(period))
        except (OSError, ValueError):
            continue
    return None


class Workers:
    """A pool of threads.

    Operations are not split among threads: each thread has its own strip, nobody waits for the slowest after every
    operation, and waiting threads sleep. The settings of other threads stay as they are.

    Args:
        threads: how many.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, "moceir", initializer=_use_one_thread)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results in the order of the items; only a few more are under way than there are threads."""
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


def _use_one_thread() -> None:
    # OpenMP's number of threads belongs to the thread that asks. PyTorch sets it once for each new thread, at the first
    # question, so that must come before.
    torch.get_num_threads()
    threadpoolctl.threadpool_limits(1, user_api="openmp")


@torch.inference_mode()
def _infer(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)
