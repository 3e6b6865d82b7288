"""A process for each instance of a list, with a hard limit, and what is made of what it left behind."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import NamedTuple

from verifier.checker.audit import SUFFIX
from verifier.vnncomp.answer import InstanceStatus
from verifier.vnncomp.bench_list import Instance
from verifier.vnncomp.bench_settings import BenchSettings
from verifier.vnncomp.process import Ended, FreshProcess, Stopped
from verifier.vnncomp.result_file import parsed
from verifier.vnncomp.warm import Worker

#: seconds beyond its limit after which a process is killed, and those for certificates, which come after the answer
GRACE, CERTIFYING = 5.0, 600.0


class Decided(NamedTuple):
    """What a process made of an instance."""

    status: InstanceStatus
    seconds: float
    note: str
    certificates: str = ""  #: as of `BenchRow`


class Processes:
    """A process for each instance, one at a time in each thread; all are stopped at the end."""

    def __init__(self, settings: BenchSettings) -> None:
        self.settings = settings
        self._lock, self._stopped = threading.Lock(), False
        self._running: set[FreshProcess | Worker] = set()
        self._idle: list[FreshProcess | Worker] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill what runs, and start nothing more."""
        with self._lock:
            self._stopped = True
            every = [*self._running, *self._idle]
        for process in every:
            process.kill()

    def run(self, instance: Instance, result: Path, folder: Path | None) -> Decided:
        """Decide an instance.

        Args:
            result: file for its result. folder: for its certificates; None: they are not asked for.

        Raises:
            Stopped: `stop` came first.
        """
        process = self._process()
        if folder is not None:
            for old in folder.glob(f"*{SUFFIX}"):  # of an earlier run
                old.unlink()
        try:
            limit = instance.timeout + GRACE + (0.0 if folder is None else CERTIFYING)
            ended = process.run(_arguments(instance, result, folder, self.settings), limit)
        finally:
            self._put_back(process)
        if self._stopped:  # killed from outside: of the instance that says nothing
            raise Stopped
        return _outcome(ended, result, folder is not None)

    def _process(self) -> FreshProcess | Worker:
        with self._lock:
            if self._stopped:
                raise Stopped
            kind = Worker if self.settings.in_process else FreshProcess
            process = self._idle.pop() if self._idle else kind(self.settings.threads)
            self._running.add(process)
        return process

    def _put_back(self, process: FreshProcess | Worker) -> None:
        with self._lock:
            self._running.discard(process)
            if process.alive and not self._stopped:
                self._idle.append(process)
                return
        process.kill()


def _arguments(instance: Instance, result: Path, folder: Path | None, settings: BenchSettings) -> list[str]:
    """Of `verifier vnnlib`."""
    networks = [f"--network={name}={path}" for name, path in instance.named] or [str(instance.network)]
    arguments = [*networks, str(instance.property_file), "--timeout", repr(instance.timeout), "--out", str(result)]
    arguments += [] if settings.threads is None else ["--threads", str(settings.threads)]
    arguments += [] if settings.stages is None else ["--stages", settings.stages]
    return arguments + ([] if folder is None else ["--certificates", str(folder)])


def _outcome(ended: Ended, result: Path, certified: bool) -> Decided:
    if result.exists() and (ended.code is not None or certified):
        status, note = parsed(result)[0], ended.last_line
        if not certified or status is not InstanceStatus.UNSAT:
            return Decided(status, ended.seconds, note)
        note = note if ended.code is not None else "killed while it made certificates"
        return Decided(status, ended.seconds, note, "written" if ended.code == 0 else "missing")
    if ended.code is None:
        return Decided(InstanceStatus.TIMEOUT, ended.seconds, "killed: it did not end by itself")
    how = f"exit code {ended.code}"
    if ended.code < 0:
        memory = ", perhaps for want of memory" if ended.code == -signal.SIGKILL else ""
        how = f"ended by signal {-ended.code}{memory}"
    return Decided(InstanceStatus.ERROR, ended.seconds, f"{how}: {ended.last_line}")
