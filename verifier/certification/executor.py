"""Who works on the units of a run, and where. Another executor is one more class with `run`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from verifier.certification.work import Sink, UnitRunner, WorkUnit


class Executor(Protocol):
    """Works on units, wherever it likes and in any order; which rows come of them does not depend on it."""

    def run(self, units: Iterable[WorkUnit], sink: Sink) -> None:
        """Tells of every example of every unit, as soon as it is decided, in the thread that called.

        What comes more than once, of work done twice after a loss, may be told more than once: the first counts.
        Returns when all is done; what `sink` raises, and Ctrl-C, ends the work and is passed on.
        """


@dataclass(frozen=True)
class InProcess:
    """One unit after another, in this process."""

    runner: UnitRunner

    def run(self, units: Iterable[WorkUnit], sink: Sink) -> None:
        for unit in units:
            self.runner.run(unit, sink)
