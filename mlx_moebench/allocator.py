"""Keep the memory that MLX and torch free on a Linux CPU, instead of giving it back to the system each time.

glibc maps arrays of 32 MiB and more anew each time, and the system clears every page of them at its first touch:
several times what an operation on them takes. ``MLX_MOEBENCH_MALLOC=off`` leaves glibc as it is.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

ENVIRONMENT_VARIABLE = "MLX_MOEBENCH_MALLOC"

# <malloc.h>
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_KEPT = 2**30
_SETTINGS = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _KEPT), (_TOP_PAD, 2**26), (_ARENA_MAX, 1))
"""Map nothing apart; keep up to a GiB at the end of the heap, and take 64 MiB more than is needed; one heap for all
threads, so that what one frees another can use."""


@cache
def keep_freed_memory() -> bool:
    """Make malloc keep what is freed, once for the process; whether it does. False where it is not glibc's."""
    if os.environ.get(ENVIRONMENT_VARIABLE, "").lower() == "off":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    taken = [library.mallopt(name, value) == 1 for name, value in _SETTINGS]
    return all(taken)
