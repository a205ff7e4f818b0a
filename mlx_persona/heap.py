"""glibc's heap, set for training on a CPU. Imports no mlx.

MLX takes and frees hundreds of arrays in every step. By default glibc gives each large one back to the system, and
whoever takes it next waits until the kernel has cleared its pages: a tenth to a fifth of a step's time
(docs/lab-notes.md).
"""

from __future__ import annotations

import ctypes
import os
import sys

# <malloc.h>
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
# Larger blocks are given back one by one: kept, they would be holes that nothing else fits.
_KEPT_BYTES = 64 * 2**20
_NEVER = 2**31 - 1


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc."""
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    except (OSError, AttributeError):
        return None


def keep_freed() -> None:
    """Let glibc keep what is freed, until :func:`give_back`.

    Whoever has set glibc's heap in the environment (``MALLOC_*``, ``GLIBC_TUNABLES``) knows better.
    """
    own = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if not own and (library := _glibc()):
        for name, value in ((_MMAP_THRESHOLD, _KEPT_BYTES), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _KEPT_BYTES)):
            library.mallopt(name, value)


def give_back() -> None:
    """Return to the system what was freed."""
    if library := _glibc():
        library.malloc_trim(0)
