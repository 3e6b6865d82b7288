"""Pools that are kept for whoever solves next: a worker takes half a second to start, most programs less to solve."""

from __future__ import annotations

import os
import sys
import threading
from typing import NamedTuple

from solvers.pool import Pool, cores

#: seconds after which a pool that nobody has asked for is closed
IDLE = 30.0


class _Kept(NamedTuple):
    pool: Pool
    ends: threading.Timer


class Shelf:
    """Pools that are in nobody's hands, at most one of each kind. Any thread may ask; nobody shares a pool."""

    def __init__(self, idle: float = IDLE) -> None:
        self.idle = idle
        self._lock = threading.Lock()
        self._kept: dict[tuple[object, ...], _Kept] = {}
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)  # they are the parent's

    def take(self, workers: int | None, backend: str) -> Pool:
        """A pool of so many workers, None: one per core; from now on the caller's, to be given back or closed.

        Raises:
            ValueError: there is no such solver.
        """
        with self._lock:
            kept = self._kept.pop(_kind(workers or cores(), backend), None)
        if kept is None:
            return Pool(workers, backend)
        kept.ends.cancel()
        return kept.pool

    def give(self, pool: Pool) -> None:
        """Back, with nothing under way in it."""
        kind = _kind(pool.workers, pool.backend)
        with self._lock:
            spare = kind in self._kept
            if not spare:
                ends = threading.Timer(self.idle, self._end, (kind, pool))
                ends.daemon = True
                ends.start()
                self._kept[kind] = _Kept(pool, ends)
        if spare:
            pool.close()

    def clear(self) -> None:
        """Closes all of them."""
        with self._lock:
            kept, self._kept = self._kept, {}
        for pool, ends in kept.values():
            ends.cancel()
            pool.close()

    def _end(self, kind: tuple[object, ...], pool: Pool) -> None:
        with self._lock:
            mine = kind in self._kept and self._kept[kind].pool is pool
            if mine:
                del self._kept[kind]
        if mine:
            pool.close()

    def _forget(self) -> None:
        self._lock, self._kept = threading.Lock(), {}


def _kind(workers: int, backend: str) -> tuple[object, ...]:
    """What pools must have in common to stand for each other: workers have the path of the time when they started."""
    return workers, backend, tuple(sys.path)


#: the one of this process
SHELF = Shelf()
