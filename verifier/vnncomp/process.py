"""A process for one instance of a list, and what it left behind when it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple


class Stopped(Exception):
    """The run ends before the instance does."""


class Ended(NamedTuple):
    """How a process ended."""

    code: int | None  #: its exit code, negative for a signal; None: it was killed, having overrun its time
    seconds: float  #: wall time
    last_line: str  #: of what it said on its standard error


class FreshProcess:
    """Started for one instance, as `verifier vnnlib`.

    Args:
        threads: that its libraries may start; None: as many as they like.
    """

    alive = False  #: whether it can decide another instance afterwards

    def __init__(self, threads: int | None) -> None:
        self._threads, self._lock, self._killed = threads, threading.Lock(), False
        self._popen: subprocess.Popen[bytes] | None = None

    def run(self, arguments: Sequence[str], limit: float) -> Ended:
        """Decide the instance that the arguments of `verifier vnnlib` name, in `limit` seconds of wall time."""
        began = time.monotonic()
        with tempfile.TemporaryFile() as said:
            with self._lock:
                if self._killed:
                    raise Stopped
                self._popen = started("verifier", "vnnlib", *arguments, threads=self._threads, errors=said)
            try:
                code: int | None = self._popen.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            self.kill()
            return Ended(code, time.monotonic() - began, last_line(said))

    def kill(self) -> None:
        """End the process and all of its group; any thread may call it."""
        with self._lock:
            self._killed = True
        if self._popen is not None:
            kill_group(self._popen.pid)
            self._popen.wait()


def started(
    module: str, *arguments: str, threads: int | None, errors: IO[bytes], pipes: bool = False
) -> subprocess.Popen[bytes]:
    """A Python process that runs a module of this project's, in a group of its own that Ctrl-C does not reach.

    Args:
        threads: that its libraries may start. errors: takes its standard error.
        pipes: to its standard input and from its standard output; default the null device.
    """
    path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    end = subprocess.PIPE if pipes else subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=end, stdout=end, stderr=errors, env=environment, start_new_session=True,
    )  # fmt: skip


def kill_group(leader: int) -> None:
    """End a process and all of its group; nothing where it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def last_line(said: IO[bytes]) -> str:
    """The end of what a process said."""
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else ""
