"""A list of instances on workers elsewhere, which need none of its files: those travel with the work.

Each instance has a process there that a warm worker forks (warm.py), with the same arguments and the same hard limit as
here. Its result file and certificates come back, and are checked here.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import platform
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from verifier.checker.audit import NETWORK, SUFFIX
from verifier.errors import InputError, StoreError
from verifier.files import bytes_replaced
from verifier.graph.onnx_file import files_beside
from verifier.vnncomp.answer import InstanceStatus
from verifier.vnncomp.bench_list import Instance
from verifier.vnncomp.bench_settings import BenchSettings
from verifier.vnncomp.processes import Decided, Processes
from verifier.workers.course import LOSSES, WorkerLost, carry_out
from verifier.workers.place import Place
from verifier.workers.travel import packed, unpacked

#: of the name of a worker's folder; its process's id comes next
_HOME = "rampart-bench-"
#: seconds
_OLD = 24 * 3600.0


def decide_elsewhere(
    todo: Sequence[tuple[Instance, Path]],
    settings: BenchSettings,
    place: Place,
    settled: Callable[[Instance, Path, Decided], None],
) -> None:
    """Has instances decided at a place, and tells of each when its result file is there.

    Raises:
        InputError: there is no such cluster, or a file cannot be read. What `settled` raises.
    """
    if not todo:
        return
    settings = replace(settings, threads=settings.threads or 1, in_process=True, executor=None)
    opened = place.workers(settings.threads or 1)
    assert opened is not None
    work = InstanceWork(replace(settings, out=None), _networks(instance for instance, _ in todo))
    with opened(packed(work)) as workers:
        carry_out(_List(todo, settings, settled), workers)


@dataclass(frozen=True)
class InstanceUnit:
    """An instance, and its property as the file is. Its network is known by the path that it has in the list."""

    instance: Instance
    asked: bytes
    certificates: Path | None  #: the folder that they come into at last; None: they are not asked for


@dataclass(frozen=True)
class DecidedElsewhere:
    """What became of an instance, with the files that it left: the result, and certificates by their names."""

    decided: Decided
    result: bytes | None
    certificates: Mapping[str, bytes]


@dataclass
class InstanceWork:
    """What workers are given (`verifier.workers.worker.Work`).

    Args:
        networks: by the path in the list, its files by name.
    """

    settings: BenchSettings
    networks: dict[Path, dict[str, bytes]]
    _home: Path = field(init=False)
    _here: dict[Path, Path] = field(init=False)  #: path in the list -> the file here
    _processes: Processes = field(init=False)

    def prepare(self, threads: int) -> None:
        """A folder of this process's own, with the networks in it. Raises InputError where the disk is full."""
        _remove_orphans()
        try:
            self._home = Path(tempfile.mkdtemp(prefix=f"{_HOME}{os.getpid()}-"))
            atexit.register(shutil.rmtree, self._home, ignore_errors=True)
            self._here = {path: self._put(k, path, files) for k, (path, files) in enumerate(self.networks.items())}
        except OSError as error:
            where = f"{tempfile.gettempdir()} of {platform.node()}"
            raise InputError(f"a worker cannot write the networks to {where}: {error.strerror}") from error
        self.networks = {}
        self._processes = Processes(replace(self.settings, threads=threads))

    def _put(self, number: int, path: Path, files: Mapping[str, bytes]) -> Path:
        """Writes a network and what lies beside it; the path that it has here."""
        folder = self._home / str(number)
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder / path.name

    def do(self, unit: InstanceUnit, tell: Callable[[DecidedElsewhere], None]) -> None:
        """Decides an instance in a process of its own."""
        asked = unit.instance
        with tempfile.TemporaryDirectory(dir=self._home) as name:
            folder = Path(name)
            result, certificates = folder / "result.txt", folder / "certificates"
            (folder / asked.property_file.name).write_bytes(unit.asked)
            instance = replace(
                asked,
                network=self._here[asked.network],
                named=tuple((name, self._here[path]) for name, path in asked.named),
                property_file=folder / asked.property_file.name,
            )
            decided = self._processes.run(instance, result, None if unit.certificates is None else certificates)
            here = [(asked.property_file, instance.property_file), (unit.certificates, certificates)]
            decided = decided._replace(note=_translated(decided.note, (*here, *self._here.items())))
            made = certificates.iterdir() if certificates.is_dir() else ()
            files = {file.name: file.read_bytes() for file in made}
            tell(DecidedElsewhere(decided, result.read_bytes() if result.exists() else None, files))


def _translated(note: str, paths: Iterable[tuple[Path | None, Path]]) -> str:
    """A text with the paths that files have where the list is, in place of those that they have here."""
    for there, here in paths:
        note = note.replace(str(here), str(there))
    return note


def _remove_orphans() -> None:
    """The folders of workers that were killed: their process is gone, and nothing has happened in them for a day.

    The time is for containers that share a folder, and do not see each other's processes.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_HOME}*-*"):
        process = folder.name.removeprefix(_HOME).partition("-")[0]
        with contextlib.suppress(PermissionError, FileNotFoundError):  # another user's, or another one removes it
            old = time.time() - folder.stat().st_mtime > _OLD
            if old and process.isdecimal() and not _alive(int(process)):
                shutil.rmtree(folder, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _networks(instances: Iterable[Instance]) -> dict[Path, dict[str, bytes]]:
    """The files of all networks. Raises InputError where one cannot be read."""
    paths = dict.fromkeys(path for one in instances for path in (one.network, *(path for _, path in one.named)))
    found = {}
    for path in paths:
        folder = path.parent.resolve()
        beside = {str(file.relative_to(folder)): _content(file) for file in files_beside(path)}
        found[path] = {path.name: _content(path), **beside}
    return found


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


@dataclass(eq=False)
class _Task:
    instance: Instance
    result: Path
    losses: int = 0
    told: bool = False


class _List:
    """The instances, in order (`verifier.workers.course.Plan`)."""

    def __init__(
        self,
        todo: Sequence[tuple[Instance, Path]],
        settings: BenchSettings,
        settled: Callable[[Instance, Path, Decided], None],
    ) -> None:
        self._waiting = deque(_Task(instance, result) for instance, result in todo)
        self._settings, self._settled = settings, settled

    def next(self, capacity: int) -> _Task | None:
        return self._waiting.popleft() if self._waiting else None

    def content(self, task: _Task) -> bytes:
        certificates = self._settings.certificates_of(task.instance)
        return packed(InstanceUnit(task.instance, _content(task.instance.property_file), certificates))

    def came(self, task: _Task, part: bytes) -> None:
        found: Sequence[DecidedElsewhere] = unpacked(part)
        for one in found:
            task.told = True
            self._keep(task, one)

    def lost(self, task: _Task, how: WorkerLost) -> None:
        """A worker's end is not that of the instance's process: it is tried again, elsewhere perhaps."""
        if task.told:
            return
        task.losses += how.began
        if task.losses < LOSSES:
            self._waiting.appendleft(task)
            return
        task.result.unlink(missing_ok=True)
        note = f"WorkerLost: the worker that had it ended {LOSSES} times before it was done; the last: {how}"
        self._settled(task.instance, task.result, Decided(InstanceStatus.ERROR, 0.0, note))

    def _keep(self, task: _Task, found: DecidedElsewhere) -> None:
        """The files first: a row is about what is there."""
        decided, folder = found.decided, self._settings.certificates_of(task.instance)
        try:
            if found.result is None:
                task.result.unlink(missing_ok=True)
            else:
                bytes_replaced(task.result, found.result)
            if folder is not None:
                decided = _with_certificates(decided, folder, found.certificates)
        except OSError as error:
            raise StoreError(f"cannot write {error.filename or task.result}: {error.strerror}") from error
        self._settled(task.instance, task.result, decided)


def _with_certificates(decided: Decided, folder: Path, files: Mapping[str, bytes]) -> Decided:
    """Puts certificates into their folder, in place of those of an earlier run. Raises OSError."""
    for old in folder.glob(f"*{SUFFIX}"):
        old.unlink()
    if not files:
        return decided
    folder.mkdir(parents=True, exist_ok=True)
    network = folder / NETWORK
    if network.exists() and network.read_bytes() != files.get(NETWORK):
        return decided._replace(certificates="missing", note=f"{folder} holds certificates of another network")
    for name, content in files.items():
        bytes_replaced(folder / name, content)
    return decided
