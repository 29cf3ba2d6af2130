"""What a program, but not a library, may ask of the memory allocator."""

from __future__ import annotations

import ctypes
import sys

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Keep memory that was freed for what comes next, instead of returning it to the system page by page.

    Maps of a picture come and go by the hundred, and filling fresh pages takes longer than computing. Only glibc is
    told; elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        # The highest that glibc takes. Larger blocks, which are few, go back, so that they do not split the rest.
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 128 << 20)
        mallopt(_M_TOP_PAD, 16 << 20)
