"""Solves in worker processes: lazily fed, killed when they overrun, replaced when they die, gone with their parent.

A worker is a fresh interpreter (`solvers.worker`) that never imports the caller's program, so a script needs no
`if __name__ == "__main__"`. A thread of ours per worker talks to it (`solvers.driver`), one more kills what overruns;
the caller's own thread draws the tasks, decides on incumbents and takes the answers.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue

from solvers.base import SolveResult
from solvers.base import backend as find_backend
from solvers.driver import Driver, Finished, Job, NewIncumbent, Task
from solvers.process import WorkerDied
from solvers.program import Vector
from solvers.worker import Stop

__all__ = ["Pool", "Task"]

#: asked with (task, question, objective value, point [n]); True stops the task
Decide = Callable[[int, int, float, Vector], bool]

#: seconds between two looks at the workers' limits
PATROL = 0.1

#: seconds that `close` waits at most for a killed worker to be gone
BURIAL = 5.0


class Pool:
    """Worker processes for linear and integer programs. They start with the first tasks.

    Args:
        workers: processes; by default one for each core that this process may use.
        backend: the solver, named as for `solvers.backend`.
        recycle: tasks after which a worker is replaced by a fresh one.
        grace: seconds past a limit after which a worker is killed; its open questions are answered with LIMIT.

    Raises:
        ValueError: there is no such solver, or a negative number of workers, who would never be done.
    """

    def __init__(
        self, workers: int | None = None, backend: str = "highs", recycle: int = 500, grace: float = 5.0
    ) -> None:
        find_backend(backend)
        if workers is not None and workers < 0:
            raise ValueError(f"workers must be 1 or more, or None for one per core; got {workers}")
        self.workers, self.backend = workers or cores(), backend
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._orders = itertools.count()
        self._drivers = [Driver(self._jobs, backend, recycle, grace) for _ in range(self.workers)]
        closed = threading.Event()
        for thread in [*self._drivers, threading.Thread(target=_patrol, args=(self._drivers, closed), daemon=True)]:
            thread.start()
        self._close = weakref.finalize(self, _close, self._drivers, self._jobs, closed, os.getpid())

    def run(self, tasks: Iterable[Task], on_incumbent: Decide | None = None) -> Iterator[tuple[int, list[SolveResult]]]:
        """Yields (task number, answers of its questions) as tasks finish.

        `tasks` is drawn lazily, at most `workers` + 1 ahead of what has been yielded, so that the caller builds the
        next program while the workers solve. A task whose worker dies is answered with FAILED, one that overruns
        with LIMIT; questions answered before that keep their answers. Leaving the loop drops what still runs.

        Args:
            on_incumbent: called in the thread that draws from this iterator, so it waits while a task is built. True
                stops the task: its open questions are answered with INTERRUPTED, unless one had just ended.

        Raises:
            ValueError: the pool is closed.
        """
        if not self._close.alive:
            raise ValueError("the pool is closed")
        events: SimpleQueue[NewIncumbent | Finished] = SimpleQueue()
        jobs = (
            Job(task, number, next(self._orders), on_incumbent is not None, events) for number, task in enumerate(tasks)
        )
        under_way: set[Job] = set()
        exhausted = False
        try:
            while under_way or not exhausted:
                if not exhausted and len(under_way) <= self.workers and events.empty():
                    job = next(jobs, None)
                    exhausted = job is None
                    if job is not None:
                        under_way.add(job)
                        self._jobs.put(job)
                    continue
                event = events.get()
                if isinstance(event, Finished):
                    under_way.remove(event.job)
                    yield event.job.number, event.answers
                elif on_incumbent is not None and on_incumbent(event.job.number, *event[1:4]):
                    _stop(event)
        finally:
            for job in under_way:
                self._drop(job)

    def close(self) -> None:
        """Ends the workers. Tasks still running are lost."""
        self._close()
        for driver in self._drivers:
            driver.join(BURIAL)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _drop(self, job: Job) -> None:
        for driver in self._drivers:
            driver.drop(job)


def _stop(found: NewIncumbent) -> None:
    with contextlib.suppress(WorkerDied):  # its driver finds out by itself
        found.process.put(Stop(found.job.order))


def _patrol(drivers: list[Driver], closed: threading.Event) -> None:
    while not closed.wait(PATROL):
        for driver in drivers:
            driver.patrol()


def _close(drivers: list[Driver], jobs: SimpleQueue[Job | None], closed: threading.Event, owner: int) -> None:
    if os.getpid() != owner:  # a fork of the process whose workers they are
        return
    closed.set()
    for driver in drivers:
        driver.end()
        jobs.put(None)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
