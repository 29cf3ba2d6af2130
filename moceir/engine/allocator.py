"""What is asked of the memory allocator."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


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


def give_freed_memory_back() -> None:
    """Return what was freed to the system, where blocks of many sizes have left more gaps than there is data."""
    trim = _from_glibc("malloc_trim")
    if trim is not None:
        trim(0)
