"""A process that works on the units of somebody else's run: what it is given, and what it does with a unit."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from verifier.certification.travel import packed_rows, unpacked
from verifier.certification.work import Finished, UnitRunner, WorkUnit

#: seconds between two looks at whether the process that gives the work is still there
_PATROL = 1.0


@dataclass
class _Given:
    """Of this process: the run that it works for."""

    name: str = ""
    threads: int = 1
    content: bytes = b""
    runner: UnitRunner | None = None


_given = _Given()


@dataclass(frozen=True)
class Collected:
    """A sink that keeps what it is told."""

    rows: list[Finished] = field(default_factory=list)

    def finished(self, one: Finished) -> None:
        self.rows.append(one)

    def begins(self, stage: str) -> None:
        """Of no use to somebody elsewhere."""


def give(name: str, content: bytes, threads: int) -> None:
    """The run that this process works for from now on.

    Args:
        name: of the run. content: its runner, packed. threads: that this process may use.
    """
    global _given
    _given = _Given(name, threads, content)


def has(name: str) -> bool:
    """Whether this process works for the run of this name already."""
    return _given.name == name


def load() -> None:
    """Makes the run ready here. Raises InputError where it cannot be unpacked."""
    _runner()


def work(unit: bytes) -> bytes:
    """All rows of a packed unit. Raises as `load`."""
    found, asked = Collected(), unpacked(unit)
    assert isinstance(asked, WorkUnit)
    _runner().run(asked, found)
    return packed_rows(found.rows)


def _runner() -> UnitRunner:
    if _given.runner is None:
        torch.set_num_threads(_given.threads)
        _given.runner = _with_threads(unpacked(_given.content), _given.threads)
        _given.content = b""
    return _given.runner


def _with_threads(runner: UnitRunner, threads: int) -> UnitRunner:
    """Has stages that would start a solver on each core start as many as this process has cores."""
    for stage in runner.verifier.stages:
        own: Any = stage
        if getattr(own, "workers", 0) is None:
            own.workers = threads if threads > 1 else 0
    return runner


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
