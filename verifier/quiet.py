"""No warnings while torch says what is its own affair."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Warnings are ignored inside, by the whole process: Python has one list of filters.

    `warnings.catch_warnings` alone would not do in several threads: who leaves last puts back what another had set.
    Here the last one to leave restores what the first one found.
    """
    held = False
    try:
        with _HOLD.lock:
            if _HOLD.count == 0:
                _HOLD.caught = warnings.catch_warnings()
                _HOLD.caught.__enter__()
                warnings.simplefilter("ignore")
            _HOLD.count, held = _HOLD.count + 1, True
        yield
    finally:
        if held:
            with _HOLD.lock:
                _HOLD.count -= 1
                if _HOLD.count == 0 and _HOLD.caught is not None:
                    _HOLD.caught.__exit__(None, None, None)
                    _HOLD.caught = None


class _Hold:
    """How many are inside, and what the first of them found."""

    def __init__(self) -> None:
        self.lock, self.count = threading.Lock(), 0
        self.caught: warnings.catch_warnings[None] | None = None


_HOLD = _Hold()
