"""Determines the number of CPU cores that this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def available_cores() -> int:
    """Return the number of cores that affinity and the control group's quota, rounded up, both permit."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = quota(Path("/sys/fs/cgroup"))
    return max(1, affinity if limit is None else min(affinity, limit))


def quota(root: Path) -> int | None:
    """Read the quota of a control group, version 2 or 1, as a number of cores rounded up; None without a limit."""
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            limit, period = " ".join((root / file).read_text() for file in files).split()
            return None if limit in ("max", "-1") else -(-int(limit) // int(period))
        except (OSError, ValueError):
            continue
    return None
