"""What texts on a command line mean, messages, and files that are written. Light: neither typer nor torch."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from verifier.budget import some_seconds
from verifier.errors import InputError


def say(message: str) -> None:
    """One line on stderr."""
    print(message, file=sys.stderr, flush=True)


def valid_range(text: str) -> tuple[float, float] | None:
    """The ends of "low,high"; None for "none". Raises InputError."""
    if text.strip() == "none":
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--clip must be low,high, such as 0,1, or none; got {text!r}") from None
    return low, high


def image_shape(text: str | None, option: str = "--shape") -> tuple[int, ...] | None:
    """The sizes in a text such as "1,28,28". Raises InputError."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} must be integers, such as 1,28,28; got {text!r}") from None


def slice_of(text: str, total: int) -> range:
    """The examples a:b of `total`, b excluded; either end may be left out. Raises InputError."""
    matched = re.fullmatch(r"(\d*):(\d*)", text.strip())
    start, stop = (int(matched[1] or 0), int(matched[2] or total)) if matched else (0, 0)
    if not 0 <= start < stop <= total:
        raise InputError(f"--indices must be a:b with 0 <= a < b <= {total}, the number of examples; got {text!r}")
    return range(start, stop)


def stage_names(text: str | None) -> tuple[str, ...] | None:
    """The names in a text with commas. Raises InputError where there is none at a place."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise InputError(f"--stages is names with commas between them, such as interval,dual; got {text!r}")
    return names


def time_limit(timeout: float) -> float | None:
    """Seconds of --timeout; None for no limit. Raises InputError."""
    return some_seconds(timeout, "--timeout")


def at_least_one(**counts: int | None) -> None:
    """Raises InputError where a count is given, and below 1; its name is the option's."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {value}")


def check_target(option: str, path: Path | None) -> None:
    """Raises InputError where an option names a file that cannot be written because of where it would be."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{path} is a directory: {option} is a file")
    if not path.parent.is_dir():
        raise InputError(f"the directory of {path} does not exist")


def exported(path: Path, export: Callable[[Path], None]) -> None:
    """A file written, or a message that says why not."""
    try:
        export(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
