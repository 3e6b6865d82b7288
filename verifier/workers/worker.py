"""A process that works on the units of somebody else's run: what it is given, and what it does with a unit."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from verifier.workers.travel import packed, unpacked

#: seconds between two looks at whether the process that gives the work is still there
_PATROL = 1.0
#: what is found is handed over within so many seconds
PATIENCE = 1.0


class Work(Protocol):
    """What all units of a run have in common. It is packed, and unpacked once in every process."""

    def prepare(self, threads: int) -> None:
        """Before the first unit: so many threads may be used."""

    def do(self, unit: Any, tell: Callable[[Any], None]) -> None:
        """Works on a unit, and tells what is found as soon as it is; that, too, is packed."""


@dataclass
class _Given:
    """Of this process: the run that it works for."""

    name: str = ""
    threads: int = 1
    content: bytes = b""
    work: Work | None = None
    begun: Iterator[tuple[bytes, bool]] | None = None  #: what comes of the unit that is under way


_given = _Given()


def give(name: str, content: bytes, threads: int) -> None:
    """The run that this process works for from now on.

    Args:
        name: of the run. content: its `Work`, packed. threads: that this process may use.
    """
    global _given
    _given = _Given(name, threads, content)


def has(name: str) -> bool:
    """Whether this process works for the run of this name already."""
    return _given.name == name


def load() -> None:
    """Makes the run ready here. Raises InputError where it cannot be unpacked."""
    _work()


class _Found:
    """What one thread finds, for another."""

    def __init__(self) -> None:
        self.done, self._lock = threading.Event(), threading.Lock()
        self._rows: list[Any] = []
        self.failure: BaseException | None = None

    def tell(self, row: Any) -> None:
        with self._lock:
            self._rows.append(row)

    def taken(self) -> list[Any]:
        with self._lock:
            rows, self._rows = self._rows, []
        return rows

    def fill(self, work: Work, unit: Any) -> None:
        try:
            work.do(unit, self.tell)
        except BaseException as error:
            self.failure = error
        finally:
            self.done.set()


def parts(unit: bytes) -> Iterator[tuple[bytes, bool]]:
    """What is found of a packed unit: packed lists, at most one every PATIENCE seconds, and whether it is the last.

    Raises what the work raises, after what it has found until then; and as `load`.
    """
    work, asked, found = _work(), unpacked(unit), _Found()
    thread = threading.Thread(target=found.fill, args=(work, asked), name="verifier-unit", daemon=True)
    thread.start()
    ended = False
    while not ended:
        ended = found.done.wait(PATIENCE)
        rows = found.taken()
        if ended and found.failure is None:
            yield packed(rows), True
        elif rows:
            yield packed(rows), False
    if found.failure is not None:
        raise found.failure


def first(unit: bytes) -> tuple[bytes, bool]:
    """The first of `parts`; for who can call this process, but not have it send."""
    _given.begun = parts(unit)
    return more()


def more() -> tuple[bytes, bool]:
    """The next of the unit that `first` has begun."""
    assert _given.begun is not None
    return next(_given.begun)


def _work() -> Work:
    if _given.work is None:
        work = unpacked(_given.content)
        work.prepare(_given.threads)
        _given.work, _given.content = work, b""
    return _given.work


def begin(name: str, content: bytes, threads: int, parent: int) -> None:
    """In a process of a pool on this machine, before anything else: `give`, and end with the process `parent`.

    Ctrl-C is for that process: a terminal sends it to all of them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    give(name, content, threads)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PATROL)
    os._exit(1)
