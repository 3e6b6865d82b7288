"""Workers that are processes of this machine (loky's)."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from verifier.checker.starting import deaf_to_interrupts
from verifier.workers.course import Opened, WorkerLost, Workers
from verifier.workers.worker import begin, first, load, more

if TYPE_CHECKING:
    from loky import ProcessPoolExecutor

#: seconds of one wait: on some systems Ctrl-C is noticed only between two
_LOOK = 1.0
#: what limits the threads of numerical libraries
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def processes(jobs: int) -> Opened:
    """So many, which share the cores that this process may use."""

    @contextmanager
    def opened(work: bytes) -> Iterator[Workers]:
        workers = _Processes(jobs, work)
        try:
            yield workers
        finally:
            workers.close()

    return opened


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(eq=False)
class _Begun:
    """A unit that a process works on."""

    pool: ProcessPoolExecutor
    future: Future[tuple[bytes, bool]]  #: the next of what comes of it
    loaded: Future[None] | None = None  #: where a new process was started for it


class _Processes:
    """A pool of one process for each job: when that ends, it is known on which unit, and no other unit is lost."""

    def __init__(self, jobs: int, work: bytes) -> None:
        self._jobs, self._work, self._name = jobs, work, uuid.uuid4().hex
        self._idle: list[ProcessPoolExecutor] = []
        self._busy: set[_Begun] = set()

    def capacity(self) -> int:
        return self._jobs

    def start(self, unit: bytes) -> _Begun:
        _start_trackers()
        with deaf_to_interrupts():  # also so that `close` knows of every process
            begun = self._begun(unit)
            self._busy.add(begun)
            return begun

    def _begun(self, unit: bytes) -> _Begun:
        while self._idle:
            pool = self._idle.pop()
            try:
                return _Begun(pool, pool.submit(first, unit))
            except BrokenProcessPool:  # it ended while it had nothing to do
                pool.shutdown(wait=False, kill_workers=True)
        pool = self._started()
        loaded = pool.submit(load)
        return _Begun(pool, pool.submit(first, unit), loaded)

    def wait(self, handles: Collection[_Begun]) -> Collection[_Begun]:
        by_future = {begun.future: begun for begun in handles}
        return [by_future[one] for one in wait(by_future, timeout=_LOOK, return_when=FIRST_COMPLETED).done]

    def take(self, handle: _Begun) -> tuple[bytes, bool]:
        try:
            part, last = handle.future.result()
            if not last:
                handle.future = handle.pool.submit(more)
        except BrokenProcessPool as error:
            self._busy.discard(handle)
            handle.pool.shutdown(wait=False, kill_workers=True)
            raise WorkerLost(_how(error), began=_loaded(handle)) from error
        if last:
            self._busy.discard(handle)
            self._idle.append(handle.pool)
        return part, last

    def close(self) -> None:
        """Ends all, also those at work."""
        for pool in (*self._idle, *(begun.pool for begun in self._busy)):
            pool.shutdown(wait=True, kill_workers=True)

    def _started(self) -> ProcessPoolExecutor:
        from loky import ProcessPoolExecutor

        threads = max(1, cores() // self._jobs)
        return ProcessPoolExecutor(
            1, initializer=begin, initargs=(self._name, self._work, threads, os.getpid()),
            env=dict.fromkeys(_THREADS, str(threads)),
        )  # fmt: skip


def _loaded(begun: _Begun) -> bool:
    """Whether the process had loaded the run before it was lost."""
    return begun.loaded is None or (begun.loaded.done() and begun.loaded.exception() is None)


def _start_trackers() -> None:
    """The processes that clean up after others, once: as they start, they have this thread hear signals again."""
    import multiprocessing.resource_tracker as of_python

    import loky.backend.resource_tracker as of_loky

    of_python.ensure_running()
    of_loky.ensure_running()


def _how(error: BrokenProcessPool) -> str:
    """In a few words: loky's explanation is a paragraph."""
    code = re.search(r"exit codes of the workers are \{(.*?)\}", str(error))
    return f"it ended with {code[1]}" if code else " ".join(str(error).split())[:300]
