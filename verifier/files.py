"""Files that are replaced as a whole: readers see the old one or the whole new one, also after a crash."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


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


def json_text(document: Any) -> str:
    """A document as JSON, on lines. Infinities are the strings "inf" and "-inf", NaN is null: JSON has neither."""
    return json.dumps(_finite(document), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """The same document without NaN and infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value


def _sync_folder(folder: Path) -> None:
    """Makes the new name outlive a loss of power, where folders can be opened: not on Windows."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
