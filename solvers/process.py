"""One worker process, as its parent sees it."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from solvers.worker import START, Order, Stop

SINGLE_THREADED = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)


class WorkerDied(Exception):
    """The process is gone: it crashed or was killed."""


class Process:
    """Starts at once. Its process group is its own: Ctrl-C does not reach it, and a kill takes a solver's own children.

    Raises:
        OSError: the system starts no further process.
    """

    def __init__(self, backend: str) -> None:
        own_group: dict[str, Any] = {"process_group": 0} if hasattr(os, "killpg") else {}
        self.popen = subprocess.Popen(
            [sys.executable, "-P", "-c", START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **SINGLE_THREADED},
            **own_group,
        )
        self.lock = threading.Lock()  # of the pipe to the worker
        self.deadline = float("inf")  #: on the clock of time.monotonic(); who patrols kills what is past it
        self.overran = False
        self.served = 0  #: tasks
        self.order = -1  #: the number of the task that it works on, or worked on last
        self._put(sys.path)
        self._put(backend)

    def put(self, message: Order | Stop) -> None:
        """Raises WorkerDied where nobody listens any more."""
        self._put(message)

    def get(self) -> Any:
        """The worker's next message; raises WorkerDied at the end of them."""
        assert self.popen.stdout is not None
        try:
            return pickle.load(self.popen.stdout)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            raise WorkerDied(self._epitaph()) from error

    def kill_if_late(self) -> None:
        if time.monotonic() > self.deadline:
            self.overran = True
            self.kill()

    def kill(self) -> None:
        """Ends the process and what it has started. Idempotent; any thread may call it."""
        if self.popen.returncode is not None:
            return
        if hasattr(os, "killpg"):
            try:
                os.killpg(self.popen.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                self.popen.kill()
        else:
            self.popen.kill()

    def bury(self) -> None:
        """After `kill`, from the thread that reads: frees the pipes and the entry in the process table."""
        self.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                pass  # unsent bytes for a process that is gone

    def _put(self, message: Any) -> None:
        assert self.popen.stdin is not None
        try:
            with self.lock:
                pickle.dump(message, self.popen.stdin, protocol=5)
                self.popen.stdin.flush()
        except (OSError, ValueError) as error:
            raise WorkerDied(self._epitaph()) from error

    def _epitaph(self) -> str:
        self.kill()  # a broken pipe is the end of it, however alive it looks
        code = self.popen.wait()
        return "the worker overran its limit and was killed" if self.overran else f"the worker died with code {code}"
