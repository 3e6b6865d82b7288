"""A worker: a process that has loaded everything, and forks one process for each instance, as its parent sees it.

The worker itself (verifier/commands/worker.py) computes nothing, so it holds nothing that one instance could leave to
the next: threads, random state, memory and whatever libraries keep end with the instance's process. That is why the
processes are forked and not reused, and why no worker needs to be replaced but one that was killed.
"""

from __future__ import annotations

import json
import os
import select
import tempfile
import threading
import time
from collections.abc import Sequence

from verifier.vnncomp.process import Ended, kill_group, last_line, started

#: seconds for a worker to load what instances need, and to do as it is told
_LOADING, _PROMPT = 300.0, 10.0


class Worker:
    """Starts at once.

    Args:
        threads: that libraries may start in the process of an instance; None: as many as they like.
    """

    def __init__(self, threads: int | None) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  as long as the worker
        self._popen = started("verifier.commands.worker", threads=threads, errors=self._said, pipes=True)
        self._lock = threading.Lock()  # of what ends its processes
        self._instance = 0  #: the id of the process that decides one
        self._killed, self._loaded, self._unread = False, False, b""

    @property
    def alive(self) -> bool:
        """Whether it can decide another instance."""
        return not self._killed

    def run(self, arguments: Sequence[str], limit: float) -> Ended:
        """Decide the instance that the arguments of `verifier vnnlib` name, in `limit` seconds of wall time."""
        began = time.monotonic()
        with tempfile.NamedTemporaryFile(prefix="bench-") as said:
            try:
                self._load()
                began = time.monotonic()
                self._start(arguments, said.name)
                code = self._number(limit)
                overran = code is None
                if code is None:
                    kill_group(self._instance)
                    self._expected(_PROMPT)
                self._instance = 0
                return Ended(None if overran else code, time.monotonic() - began, last_line(said))
            except (OSError, EOFError):  # the worker is gone
                self.kill()
            how = f"the worker ended with code {self._popen.returncode}: {last_line(self._said)}"
            return Ended(self._popen.returncode, time.monotonic() - began, how)

    def kill(self) -> None:
        """End the worker, and the process of its instance with all of that one's group; any thread may call it."""
        with self._lock:
            self._killed = True
            kill_group(self._popen.pid)  # first: it starts nothing more
            if self._instance:
                kill_group(self._instance)
        self._popen.wait()

    def _load(self) -> None:
        """Waits until the worker has loaded everything. Raises EOFError."""
        if not self._loaded:
            self._expected(_LOADING)
            self._loaded = True

    def _start(self, arguments: Sequence[str], errors: str) -> None:
        """Have the process of an instance started, its standard error in a file. Raises EOFError, OSError."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps({"arguments": [*arguments], "errors": errors}).encode() + b"\n")
        self._popen.stdin.flush()
        number = self._expected(_PROMPT)
        with self._lock:
            self._instance = number
            if self._killed:
                kill_group(number)

    def _expected(self, seconds: float) -> int:
        number = self._number(seconds)
        if number is None:
            raise EOFError
        return number

    def _number(self, seconds: float) -> int | None:
        """The next one that the worker says; None: it says none in time. Raises EOFError where it is gone."""
        assert self._popen.stdout is not None
        until = time.monotonic() + seconds
        while b"\n" not in self._unread:
            if not select.select([self._popen.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                return None
            more = os.read(self._popen.stdout.fileno(), 4096)
            if not more:
                raise EOFError
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return int(line)
