"""Counts and times, as Prometheus reads them (text exposition format 0.0.4)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

_BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # seconds
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0


class Metrics:
    """Counters and histograms over all requests so far."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        """Number of requests by route and status."""
        self.seconds: dict[str, list[float]] = {}
        """By route: how many requests took no longer than each bound, and the sum of their seconds."""
        self.pixels = 0
        """Number of restored pixels."""

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self.requests[route, status] += 1
        times = self.seconds.setdefault(route, [0] * (len(_BOUNDS) + 1))
        for index, bound in enumerate(_BOUNDS):
            times[index] += seconds <= bound
        times[-1] += seconds

    def mean(self, route: str) -> float:
        """Return the mean seconds of a route's requests; 1 before the first."""
        count = sum(number for (name, _), number in self.requests.items() if name == route)
        return self.seconds[route][-1] / count if count else 1.0

    def text(self, *, inside: int, waiting: int, starts: int, pids: Iterable[int]) -> str:
        """Format all metrics.

        Args:
            inside: number of requests in progress or waiting.
            waiting: number of requests that wait.
            starts: how often workers were started so far.
            pids: process ids of the running workers.
        """
        lines: list[str] = []

        def family(name: str, kind: str, what: str, *samples: tuple[str, float]) -> None:
            lines.extend((f"# HELP moceir_{name} {what}", f"# TYPE moceir_{name} {kind}"))
            lines.extend(f"moceir_{name}{labels} {value:.10g}" for labels, value in samples)

        counted = sorted(self.requests.items())
        family(
            *("requests_total", "counter", "Requests by route and status."),
            *((f'{{route="{route}",status="{status}"}}', number) for (route, status), number in counted),
        )
        times: list[tuple[str, float]] = []
        for route, numbers in sorted(self.seconds.items()):
            total = sum(number for (name, _), number in counted if name == route)
            bounds = [*(f"{bound:g}" for bound in _BOUNDS), "+Inf"]
            for bound, number in zip(bounds, [*numbers[:-1], total], strict=True):
                times.append((f'_bucket{{route="{route}",le="{bound}"}}', number))
            times += [(f'_sum{{route="{route}"}}', numbers[-1]), (f'_count{{route="{route}"}}', total)]
        family("request_seconds", "histogram", "From a request's first byte to its answer's last.", *times)
        family("pixels_total", "counter", "Pixels that were restored.", ("", self.pixels))
        family("requests_inside", "gauge", "Requests that work or wait.", ("", inside))
        family("requests_waiting", "gauge", "Requests that wait for a worker.", ("", waiting))
        family("worker_starts_total", "counter", "Workers that were started.", ("", starts))
        workers = [(pid, resident_bytes(pid)) for pid in pids]
        family("workers", "gauge", "Workers that live.", ("", len(workers)))
        sizes = ((f'{{pid="{pid}"}}', size) for pid, size in workers)
        family("worker_resident_bytes", "gauge", "Memory of each worker.", *sizes)
        family("server_resident_bytes", "gauge", "Memory of the server.", ("", resident_bytes(os.getpid())))
        return "\n".join(lines) + "\n"


def resident_bytes(pid: int) -> int:
    """Return a process's resident memory in bytes; 0 on systems without Linux's /proc."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0
