"""States of the whole process that several threads need at once, and that belong to somebody else."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class HeldState:
    """A state that the process is in while anybody holds it: any number of threads, nested as they like.

    The first who comes sets it, and the last who leaves restores what the first one found.

    Args:
        take: sets the state, and returns what restores the one before.
    """

    def __init__(self, take: Callable[[], Callable[[], object]]) -> None:
        self._take, self._lock, self._count = take, threading.Lock(), 0
        self._restore: Callable[[], object] | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, the process is in the state."""
        entered = False
        try:
            with self._lock:
                if self._count == 0:
                    self._restore = self._take()
                self._count, entered = self._count + 1, True
            yield
        finally:
            if entered:
                with self._lock:
                    self._count -= 1
                    if self._count == 0 and self._restore is not None:
                        self._restore()
                        self._restore = None

    def _forked(self) -> None:
        """In the child of a fork another thread may have held the lock, which nobody would give back."""
        self._lock = threading.Lock()
