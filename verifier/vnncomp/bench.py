"""Running a list of instances, by default each in a process of its own, as the competition does."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path

from verifier.errors import InputError, ModelError, StoreError
from verifier.files import text_replaced
from verifier.vnncomp.answer import InstanceStatus
from verifier.vnncomp.bench_list import Instance
from verifier.vnncomp.recheck import complaint, contradiction

#: seconds beyond its limit after which a process is killed
GRACE = 5.0
_TABLE = "results.csv"


@dataclass(frozen=True)
class BenchSettings:
    """How a list is run."""

    out: Path | None = None  #: folder for the results; None: they are not kept
    resume: bool = False
    jobs: int = 1
    threads: int | None = None  #: of each instance
    in_process: bool = False
    stages: str | None = None


@dataclass(frozen=True)
class BenchRow:
    """What became of one instance of a list."""

    name: str
    network: str
    timeout: float
    expected: str  #: sat, unsat, or nothing
    status: str
    seconds: float  #: wall time; of the whole process where it had one
    wrong: str = ""  #: why the answer is wrong; empty where it is not known to be
    note: str = ""

    @property
    def solved(self) -> bool:
        return not self.wrong and InstanceStatus(self.status).solved


def run(
    instances: Sequence[Instance], settings: BenchSettings, say: Callable[[str], None] | None = None
) -> list[BenchRow]:
    """Decide all instances; rows in the order of the list. What is done is in `out` after every instance.

    Raises:
        InputError, StoreError: `out` cannot be used, or holds a run that is not to be resumed.
    """
    with _folder(settings.out) as folder:
        table = _Table(folder / _TABLE, settings, instances)
        todo = [
            (instance, folder / f"{number:04d} {instance.name[:150]}.txt") for number, instance in enumerate(instances)
        ]
        todo = [(instance, result) for instance, result in todo if not table.has(instance)]
        if settings.in_process:
            for instance, result in todo:
                _one(instance, result, table, say, lambda i, r: _here(i, r, settings))
        else:
            _side_by_side(todo, settings, table, say)
        return table.rows()


def _side_by_side(
    todo: Sequence[tuple[Instance, Path]], settings: BenchSettings, table: _Table, say: Callable[[str], None] | None
) -> None:
    with _Processes(settings) as processes, ThreadPoolExecutor(settings.jobs) as pool:
        futures = [pool.submit(_one, instance, result, table, say, processes.run) for instance, result in todo]
        try:
            for future in futures:
                future.result()
        except BaseException:
            processes.stop()
            pool.shutdown(cancel_futures=True)
            raise


@contextlib.contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out is None:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            yield Path(folder)
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out}: {error.strerror}") from error
    yield out


class _Table:
    """The rows so far, in memory and in a csv file that is replaced as a whole."""

    def __init__(self, path: Path, settings: BenchSettings, instances: Sequence[Instance]) -> None:
        self.path, self._lock = path, threading.Lock()
        self._keys = [(i.name, i.timeout) for i in instances]
        self._done: dict[tuple[str, float], BenchRow] = {}
        if path.exists():
            if not settings.resume:
                raise StoreError(f"{path} exists: go on with it by --resume, or give another --out")
            self._done = {(row.name, row.timeout): row for row in _rows(path)}
            for instance in filter(self.has, instances):  # the list may know more by now
                row = self._done[instance.name, instance.timeout]
                wrong = row.wrong or contradiction(instance, InstanceStatus(row.status))
                self._done[row.name, row.timeout] = replace(row, expected=_word(instance.expected), wrong=wrong)
        self._save()  # a folder that cannot be written to is found out before anything is run

    def has(self, instance: Instance) -> bool:
        return (instance.name, instance.timeout) in self._done

    def add(self, row: BenchRow) -> None:
        with self._lock:
            self._done[row.name, row.timeout] = row
            self._save()

    def _save(self) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = [field.name for field in fields(BenchRow)]
        writer.writerow(names)
        writer.writerows([getattr(row, name) for name in names] for row in self._done.values())
        _write(self.path, text.getvalue())

    def rows(self) -> list[BenchRow]:
        return [self._done[key] for key in dict.fromkeys(self._keys) if key in self._done]


def _write(path: Path, text: str) -> None:
    try:
        text_replaced(path, text)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def _word(expected: InstanceStatus | None) -> str:
    return "" if expected is None else expected.value


def _rows(path: Path) -> list[BenchRow]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_row(line) for line in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{path} is not a table of results: {error}") from error


def _row(line: dict[str, str]) -> BenchRow:
    texts = {name: line[name] for name in ("name", "network", "expected", "wrong", "note")}
    status = InstanceStatus(line["status"]).value
    return BenchRow(timeout=float(line["timeout"]), status=status, seconds=float(line["seconds"]), **texts)


def _one(
    instance: Instance, result: Path, table: _Table, say: Callable[[str], None] | None,
    decide: Callable[[Instance, Path], tuple[InstanceStatus, float, str]],
) -> None:  # fmt: skip
    result.unlink(missing_ok=True)
    status, seconds, note = decide(instance, result)
    row = BenchRow(
        instance.name, instance.network_name, instance.timeout,
        _word(instance.expected), status.value, seconds, note=note,
    )  # fmt: skip
    row = replace(row, wrong=complaint(instance, status, result))
    table.add(row)
    if say is not None:
        say(f"{row.name}: {row.status} in {row.seconds:.2f} s{'  WRONG: ' + row.wrong if row.wrong else ''}")


def _here(instance: Instance, result: Path, settings: BenchSettings) -> tuple[InstanceStatus, float, str]:
    """Decide an instance in this process."""
    import torch

    from verifier.vnncomp.ladder import InstanceLadder
    from verifier.vnncomp.result_file import render
    from verifier.vnncomp.solve import solve

    threads = settings.threads or torch.get_num_threads()  # not fewer for those after an instance of few inputs
    names = None if settings.stages is None else tuple(name.strip() for name in settings.stages.split(","))
    began = time.monotonic()
    try:
        answer, prop = solve(
            instance.files, instance.property_file, instance.timeout,
            stages=None if names is None else InstanceLadder((), names), threads=threads,
        )  # fmt: skip
    except Exception as error:  # a row of the table, as in a process of its own; the other instances go on
        _write(result, "error\n")
        cause = "" if isinstance(error, InputError | ModelError) else f"{type(error).__name__}: "
        return InstanceStatus.ERROR, time.monotonic() - began, cause + " ".join(str(error).split())
    _write(result, render(answer, prop))
    return answer.status, answer.seconds, answer.reason


class Stopped(Exception):
    """The run ends before the instance does."""


class _Processes:
    """Processes that decide one instance each; all are stopped at the end."""

    def __init__(self, settings: BenchSettings) -> None:
        self.settings = settings
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock, self._stopped = threading.Lock(), False

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill what runs, and start nothing more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            _kill(process)

    def run(self, instance: Instance, result: Path) -> tuple[InstanceStatus, float, str]:
        from verifier.vnncomp.result_file import parsed

        began = time.monotonic()
        with tempfile.TemporaryFile() as said:
            with self._lock:
                if self._stopped:
                    raise Stopped
                process = subprocess.Popen(
                    _command(instance, result, self.settings), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    stderr=said, env=_environment(self.settings), start_new_session=True,
                )  # fmt: skip
                self._running.add(process)
            try:
                process.wait(instance.timeout + GRACE)
            except subprocess.TimeoutExpired:
                return InstanceStatus.TIMEOUT, time.monotonic() - began, "killed: it did not end by itself"
            finally:
                _kill(process)
                with self._lock:
                    self._running.discard(process)
            seconds = time.monotonic() - began
            if self._stopped:  # killed from outside: of the instance that says nothing
                raise Stopped
            said.seek(0)
            last = said.read().decode(errors="replace").strip().splitlines()
        note = "" if not last else last[-1][:500]
        if not result.exists():
            return InstanceStatus.ERROR, seconds, f"exit code {process.returncode}: {note}"
        return parsed(result)[0], seconds, note


def _command(instance: Instance, result: Path, settings: BenchSettings) -> list[str]:
    networks = [f"--network={name}={path}" for name, path in instance.named] or [str(instance.network)]
    command = [
        sys.executable, "-m", "verifier", "vnnlib", *networks, str(instance.property_file),
        "--timeout", repr(instance.timeout), "--out", str(result),
    ]  # fmt: skip
    command += [] if settings.threads is None else ["--threads", str(settings.threads)]
    return command + ([] if settings.stages is None else ["--stages", settings.stages])


def _environment(settings: BenchSettings) -> dict[str, str]:
    path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    if settings.threads is not None:
        environment["OMP_NUM_THREADS"] = str(settings.threads)
    return environment


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all of its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
