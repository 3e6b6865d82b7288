"""Files that are replaced as a whole: readers see the old one or the whole new one, also after a crash."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from verifier.errors import InputError

_STDOUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def replaced(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then put it in its place. What it left behind is removed if it fails.

    A link stays, and what it names is replaced. A device or a pipe, such as /dev/null, is no file: it is written to,
    and never replaced.

    Raises:
        OSError: the directory or the disk does not take it; and what `write` raises.
    """
    target = Path(path).expanduser()
    if _is_stream(target):
        _streamed(target, write)
        return
    target = target.resolve() if target.is_symlink() else target
    beside = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        write(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, target)
        _sync_folder(target.parent)
    finally:
        beside.unlink(missing_ok=True)


def _is_stream(target: Path) -> bool:
    """Whether a path names a device, a pipe, or what a process has open, and no file or folder."""
    if target.is_symlink() and os.path.realpath(target.parent).startswith(("/dev", "/proc/")):
        return True  # /dev/stdout, /dev/fd/3: what they are open on may be a file, to which the process also prints
    return target.exists() and not (target.is_file() or target.is_dir())


def _streamed(target: Path, write: Callable[[Path], object]) -> None:
    """What `write` makes, written to a stream behind what is there."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / target.name
        write(whole)
        content = whole.read_bytes()
    printing = getattr(sys.stdout, "buffer", None)
    if str(target) in _STDOUT and printing is not None:  # descriptor 1 need not be what Python prints to
        sys.stdout.flush()
        printing.write(content)
        printing.flush()
        return
    with target.open("ab", buffering=0) as stream:
        stream.write(content)


def check_file(path: Path, what: str = "file") -> None:
    """Raises InputError where there is no such file, or a directory in its place.

    Args:
        what: it is, such as "data file".
    """
    if path.is_dir():
        raise InputError(f"{path} is a directory: give the {what} itself")
    if not path.is_file():
        raise InputError(f"there is no {what} {path}" if not path.exists() else f"{path} is a stream, and no {what}")


def text_replaced(path: str | os.PathLike[str], text: str) -> None:
    """`replaced` by a text in UTF-8, its line ends as they are. Raises OSError."""
    replaced(path, lambda beside: beside.write_text(text, encoding="utf-8", newline=""))


def bytes_replaced(path: str | os.PathLike[str], content: bytes) -> int:
    """`replaced` by these bytes; returns how many. Raises OSError."""
    replaced(path, lambda beside: beside.write_bytes(content))
    return len(content)


def json_text(document: Any) -> str:
    """A document as JSON, on lines: of plain values."""
    return json.dumps(plain(document), indent=1, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """The same as JSON has it: enums by their values (trusts by their names), infinities as text, NaN as None."""
    if isinstance(value, Enum):
        return value.name.lower() if isinstance(value, int) else value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
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
