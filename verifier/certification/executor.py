"""Who works on the units of a run, and where. Another executor is one more class with `run`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from verifier.certification.work import Sink, UnitRunner, WorkUnit
from verifier.workers.course import Kept
from verifier.workers.place import Place


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


def executor(place: Place, runner: UnitRunner, stack: contextlib.ExitStack | None = None) -> Executor:
    """Who works on the units of a run at a place.

    Args:
        stack: until it is closed, workers stay for more runs; None: they end with each.
    """
    workers = place.workers(cuda=runner.verifier.device.type == "cuda")
    if workers is None:
        return InProcess(runner)
    from verifier.certification.spread import Spread

    return Spread(runner, workers if stack is None else Kept(workers, stack))
