"""What several runs of one model have in common: it is made ready once, and sent once to the workers they share."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Self

from verifier.api import Prepared
from verifier.certification.executor import Executor, executor
from verifier.certification.work import Job, UnitRunner
from verifier.workers.place import Place


class Workshop:
    """For runs that differ in the size of their sets alone, as those of a sweep do.

    As a context manager it has workers stay from one run to the next, until it is left; otherwise each run has its own.
    """

    def __init__(self) -> None:
        self._verifier: Prepared | None = None
        self._runner: UnitRunner | None = None
        self._executor: Executor | None = None
        self._stack: contextlib.ExitStack | None = None

    def verifier(self, job: Job) -> Prepared:
        """The model of the first job, made ready. Raises as `Job.prepared`."""
        if self._verifier is None:
            self._verifier = job.prepared()
        return self._verifier

    def runner(self, job: Job) -> UnitRunner:
        """Who works on the units of all runs. Raises as `Job.runner`."""
        if self._runner is None:
            self._runner = job.runner(self.verifier(job))
        return self._runner

    def executor(self, place: Place, runner: UnitRunner) -> Executor:
        """Who has them worked on, at the place of the first run."""
        if self._executor is None:
            self._executor = executor(place, runner, self._stack)
        return self._executor

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stack is not None:
            self._stack.close()
