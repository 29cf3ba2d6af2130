"""Settings of the C library's memory allocator."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable

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


def in_pages_of_its_own(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Copy a float32 channels_last map on the CPU into memory that returns to the system once the copy is deleted."""
    pages = mmap.mmap(-1, 4 * x.numel())
    copy = torch.frombuffer(pages, dtype=torch.float32).view(x.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
    return copy.copy_(x)


def give_freed_memory_back() -> None:
    """Return freed memory to the system; call it when blocks of many sizes have left more gaps than data."""
    trim = _from_glibc("malloc_trim")
    if trim is not None:
        trim(0)
