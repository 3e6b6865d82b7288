"""Freed memory stays with the process, for the tensors that come next. Light: only the standard library.

Bounds are made of tensors of many megabytes that live for milliseconds. The C library asks the system for each of them
and gives each back, so that every page of it is faulted in and cleared again: up to half of the time of a backward pass
over a transformer. That is a choice about a whole process, which belongs to commands: the packages leave it alone.
"""

from __future__ import annotations

import ctypes
import os
import sys

#: mallopt(3): what is freed at the end of the heap before it is given back, and how many blocks may be outside of it
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
#: bytes: all that a heap may end in
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Have the GNU C library keep what is freed; nothing elsewhere, nor where MALLOC_... variables are set."""
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, _NEVER)
