"""Workers that are processes of this machine (loky's)."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING

from verifier.certification.spread import Opened, WorkerLost, Workers
from verifier.certification.worker import begin, load, work
from verifier.checker.starting import deaf_to_interrupts

if TYPE_CHECKING:
    from loky import ProcessPoolExecutor

#: seconds of one wait: on some systems Ctrl-C is noticed only between two
_LOOK = 1.0
#: what limits the threads of numerical libraries
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def processes(jobs: int) -> Opened:
    """So many, which share the cores that this process may use."""

    @contextmanager
    def opened(runner: bytes) -> Iterator[Workers]:
        workers = _Processes(jobs, runner)
        try:
            yield workers
        finally:
            workers.close()

    return opened


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Processes:
    """A pool of one process for each job: when that ends, it is known on which unit, and no other unit is lost."""

    def __init__(self, jobs: int, runner: bytes) -> None:
        self._jobs, self._runner, self._name = jobs, runner, uuid.uuid4().hex
        self._idle: list[ProcessPoolExecutor] = []
        self._busy: dict[Future[bytes], ProcessPoolExecutor] = {}
        self._loaded: dict[Future[bytes], Future[None]] = {}  #: of units that a new process was started for

    def capacity(self) -> int:
        return self._jobs

    def start(self, unit: bytes) -> Future[bytes]:
        _start_trackers()
        with deaf_to_interrupts():  # also so that `close` knows of every process
            return self._start(unit)

    def _start(self, unit: bytes) -> Future[bytes]:
        while self._idle:
            pool = self._idle.pop()
            try:
                future = pool.submit(work, unit)
            except BrokenProcessPool:  # it ended while it had nothing to do
                pool.shutdown(wait=False, kill_workers=True)
            else:
                break
        else:
            pool = self._started()
            loaded = pool.submit(load)
            future = pool.submit(work, unit)
            self._loaded[future] = loaded
        self._busy[future] = pool
        return future

    def wait(self, handles: Collection[Future[bytes]]) -> Collection[Future[bytes]]:
        return wait(handles, timeout=_LOOK, return_when=FIRST_COMPLETED).done

    def result(self, handle: Future[bytes]) -> bytes:
        pool, loaded = self._busy.pop(handle), self._loaded.pop(handle, None)
        try:
            found = handle.result()
        except BrokenProcessPool as error:
            pool.shutdown(wait=False, kill_workers=True)
            raise WorkerLost(_how(error), began=loaded is None or loaded.exception() is None) from error
        self._idle.append(pool)
        return found

    def close(self) -> None:
        """Ends all, also those at work."""
        for pool in (*self._idle, *self._busy.values()):
            pool.shutdown(wait=True, kill_workers=True)

    def _started(self) -> ProcessPoolExecutor:
        from loky import ProcessPoolExecutor

        threads = max(1, cores() // self._jobs)
        return ProcessPoolExecutor(
            1, initializer=begin, initargs=(self._name, self._runner, threads, os.getpid()),
            env=dict.fromkeys(_THREADS, str(threads)),
        )  # fmt: skip


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
