"""What commands share, those of other packages too: options, data files, errors. Light: torch is loaded where used."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from verifier.checker.errors import CheckerError
from verifier.errors import InputError, InternalError, VerifierError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def number(text: str) -> float:
    """A number, or a fraction of two such as 8/255."""
    try:
        above, slash, below = text.partition("/")
        return float(above) / float(below) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"{text!r} is not a number, nor a fraction such as 8/255") from None


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Errors of the user's become one message and exit code 2; Ctrl-C is 130; all else keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        say(str(interrupt) or "interrupted")
        raise typer.Exit(130) from None
    except InternalError:
        raise
    except (VerifierError, CheckerError) as error:
        _fail(f"error: {error}")


def _fail(message: str) -> NoReturn:
    say(message)
    raise typer.Exit(2) from None


def say(message: str) -> None:
    print(message, file=sys.stderr)


def exported(path: Path, export: Callable[[Path], None]) -> None:
    """A file written, or a message that says why not."""
    try:
        export(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def arrays_of(data: Path, images_key: str, labels_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, ...] and labels [N] as they are in the file."""
    from verifier.loading import load_arrays

    images, labels = load_arrays(data, images_key, labels_key)
    if images.ndim == 0 or labels.ndim == 0:
        raise InputError(f"images {list(images.shape)} and labels {list(labels.shape)} must be [N, ...] and [N]")
    if len(images) != len(labels):
        raise InputError(f"{data} has {len(images)} images but {len(labels)} labels")
    return images, labels


def examples(
    arrays: tuple[np.ndarray, np.ndarray],
    part: range,
    scale: float | None,
    shape: str | None,
    clip: str | None,
    quiet: bool,
) -> tuple[Tensor, np.ndarray]:
    """Images as the network takes them and labels of some examples; says what is doubtful about their range."""
    from verifier.loading import prepare_images, range_note

    images, labels = (array[part.start : part.stop] for array in arrays)
    x, note = prepare_images(images, scale, integers(shape, "--shape"))
    if note and not quiet:
        say(note)
    doubt = range_note(images, scale, clipped=clip is not None)
    if doubt:  # also when quiet: the answers would mean little
        say(doubt)
    return x, labels


def part_of(first: int | None, indices: str | None, total: int, option: str = "--first") -> range:
    """The examples asked for, as a range inside 0 .. total."""
    if first is not None and indices is not None:
        raise InputError(f"give {option} or --indices, not both")
    if first is not None:
        if not 1 <= first <= total:
            raise InputError(f"{option} must be 1 to {total}, the number of examples; got {first}")
        return range(first)
    if indices is None:
        return range(total)
    matched = re.fullmatch(r"(\d*):(\d*)", indices.strip())
    start, stop = (int(matched[1] or 0), int(matched[2] or total)) if matched else (0, 0)
    if not 0 <= start < stop <= total:
        raise InputError(f"--indices must be a:b with 0 <= a < b <= {total}, the number of examples; got {indices!r}")
    return range(start, stop)


def valid_range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--clip must be low,high, such as 0,1; got {text!r}") from None
    return low, high


def integers(text: str | None, option: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} must be integers, such as 1,28,28; got {text!r}") from None
