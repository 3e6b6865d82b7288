"""How much memory a file may take. Only the standard library."""

from __future__ import annotations

import os
from pathlib import Path

#: where Linux says what a container may use
_CONTAINER = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
#: bytes where the system does not say
_UNKNOWN = 1 << 32


def machine() -> int:
    """Bytes of memory that this process may use at most: the machine's, or less where a container has a limit."""
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not a POSIX system
        return _UNKNOWN
    for path in _CONTAINER:
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            found = min(found, int(text))
    return found
