"""Files that are replaced as a whole: readers see the old one or the whole new one, also after a crash."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def replaced(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then put it in its place. What it left behind is removed if it fails.

    Raises:
        OSError: the directory or the disk does not take it; and what `write` raises.
    """
    target = Path(path).expanduser()
    beside = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        write(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, target)
        _sync_folder(target.parent)
    finally:
        beside.unlink(missing_ok=True)


def text_replaced(path: str | os.PathLike[str], text: str) -> None:
    """`replaced` by a text in UTF-8, its line ends as they are. Raises OSError."""
    replaced(path, lambda beside: beside.write_text(text, encoding="utf-8", newline=""))


def bytes_replaced(path: str | os.PathLike[str], content: bytes) -> int:
    """`replaced` by these bytes; returns how many. Raises OSError."""
    replaced(path, lambda beside: beside.write_bytes(content))
    return len(content)


def _sync_folder(folder: Path) -> None:
    """Makes the new name outlive a loss of power, where folders can be opened: not on Windows."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
