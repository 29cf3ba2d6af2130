"""Settings of the C library's memory allocator."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8


def _from_glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def keep_freed_memory() -> None:
    """Keep freed memory for later allocations, instead of returning it to the system page by page.

    Restoring allocates and frees hundreds of maps, and filling fresh pages takes longer than computing. This affects
    glibc only; elsewhere it does nothing. Programs should call it, libraries should not.
    """
    mallopt = _from_glibc("mallopt")
    if mallopt is not None:
        # glibc accepts no higher threshold. The few larger blocks are returned, so that they do not fragment the rest.
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 128 << 20)
        mallopt(_M_TOP_PAD, 16 << 20)
        # One arena, because strips pass from thread to thread: one thread reuses what another has freed.
        mallopt(_M_ARENA_MAX, 1)


class Pages:
    """Memory for strips of maps, apart from the C library's, where they would leave gaps among blocks of other sizes.

    What a deleted strip has occupied serves the next one, because the system takes long to give fresh pages. All
    returns to the system once the pages and the strips are deleted.
    """

    #: Bytes by which sizes differ; pages that no strip has reached take no memory.
    STEP = 4 << 20

    def __init__(self) -> None:
        self._free: defaultdict[int, list[mmap.mmap]] = defaultdict(list)

    def copy(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Copy a float32 channels_last map on the CPU."""
        size = -(-4 * x.numel() // self.STEP) * self.STEP
        free = self._free[size]
        try:
            pages = free.pop()
        except IndexError:
            pages = mmap.mmap(-1, size)
        numbers = np.frombuffer(pages, np.float32, x.numel())
        weakref.finalize(numbers, free.append, pages)
        return torch.from_numpy(numbers).view(x.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2).copy_(x)


def give_freed_memory_back() -> None:
    """Return freed memory to the system; call it when blocks of many sizes have left more gaps than data."""
    trim = _from_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def memory() -> int:
    """Return the bytes of memory that the machine has, or that its control group allows if that is less."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else []
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # of cgroups 2 and 1
        with suppress(OSError, ValueError):
            sizes.append(int((Path("/sys/fs/cgroup") / limit).read_text()))
    return min(sizes, default=8 << 30)
