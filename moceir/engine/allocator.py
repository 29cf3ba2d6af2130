"""What is asked of the memory allocator."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable

import torch
from torch import Tensor

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8


def _from_glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def keep_freed_memory() -> None:
    """Keep memory that was freed for what comes next, instead of returning it to the system page by page.

    Maps of a picture come and go by the hundred, and filling fresh pages takes longer than computing. Only glibc is
    told; elsewhere nothing happens. It is the program's to ask, not a library's.
    """
    mallopt = _from_glibc("mallopt")
    if mallopt is not None:
        # The highest that glibc takes. Larger blocks, which are few, go back, so that they do not split the rest.
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 128 << 20)
        mallopt(_M_TOP_PAD, 16 << 20)
        # What one thread frees, another can use: strips pass from thread to thread.
        mallopt(_M_ARENA_MAX, 1)


def in_pages_of_its_own(x: Tensor) -> Tensor:
    """A copy of a float32 channels_last map on the CPU whose memory goes back to the system once it is let go."""
    pages = mmap.mmap(-1, 4 * x.numel())
    copy = torch.frombuffer(pages, dtype=torch.float32).view(x.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
    return copy.copy_(x)


def give_freed_memory_back() -> None:
    """Return what was freed to the system, where blocks of many sizes have left more gaps than there is data."""
    trim = _from_glibc("malloc_trim")
    if trim is not None:
        trim(0)
