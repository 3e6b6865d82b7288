"""Running a list of instances, each in a process of its own, as the competition does, or forked by a warm worker.

Either way the process is the command `verifier vnnlib`, with the same arguments, so that the answers are the same.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from verifier.errors import InputError, StoreError
from verifier.files import text_replaced
from verifier.vnncomp.answer import InstanceStatus
from verifier.vnncomp.bench_about import ABOUT, session_begins
from verifier.vnncomp.bench_list import Instance
from verifier.vnncomp.bench_settings import BenchSettings
from verifier.vnncomp.processes import Decided, Processes
from verifier.vnncomp.recheck import complaint, contradiction
from verifier.workers.place import Place

#: of the results in the folder of a run
TABLE = "results.csv"
#: characters of an instance's name in that of its result file
_LONGEST = 150


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
    certificates: str = ""  #: of an unsat, where they were asked for: written or missing
    network_file: str = ""  #: as the list names it; empty of several networks
    property_file: str = ""  #: the same of the property

    @property
    def solved(self) -> bool:
        return not self.wrong and InstanceStatus(self.status).solved


def run(
    instances: Sequence[Instance], settings: BenchSettings, say: Callable[[str], None] | None = None
) -> list[BenchRow]:
    """Decide all instances; rows in the order of the list. What is done is in `out` after every instance.

    Raises:
        InputError, StoreError: `out` cannot be used, or holds a run that is not to be resumed; or there is no such
            cluster.
    """
    place = Place.of(None if settings.executor else settings.jobs, settings.executor)
    with results_folder(settings.out) as folder:
        table = _Table(folder / TABLE, settings, instances)
        session_begins(folder, {**asdict(settings), "instances": len(instances)})
        todo = [(instance, result_file(folder, instance)) for instance in instances]
        todo = [(instance, result) for instance, result in todo if not table.has(instance)]
        try:
            if place.ray:
                _on_workers(todo, settings, place, table, say)
            else:
                _side_by_side(todo, settings, table, say)
        except InputError:
            if not settings.resume and not table.rows():  # nobody to do the work: the next try may begin
                table.path.unlink()
                (folder / ABOUT).unlink()
            raise
        return table.rows()


def _side_by_side(
    todo: Sequence[tuple[Instance, Path]], settings: BenchSettings, table: _Table, say: Callable[[str], None] | None
) -> None:
    def one(instance: Instance, result: Path) -> None:
        result.unlink(missing_ok=True)
        decided = processes.run(instance, result, settings.certificates_of(instance))
        _settled(instance, result, decided, table, say)

    with Processes(settings) as processes, ThreadPoolExecutor(settings.jobs) as pool:
        futures = [pool.submit(one, instance, result) for instance, result in todo]
        try:
            for future in futures:
                future.result()
        except BaseException:
            processes.stop()
            pool.shutdown(cancel_futures=True)
            raise


def _on_workers(
    todo: Sequence[tuple[Instance, Path]],
    settings: BenchSettings,
    place: Place,
    table: _Table,
    say: Callable[[str], None] | None,
) -> None:
    from verifier.vnncomp.on_workers import decide_elsewhere

    def settled(instance: Instance, result: Path, decided: Decided) -> None:
        _settled(instance, result, decided, table, say)

    decide_elsewhere(todo, settings, place, settled)


def result_file(folder: Path, instance: Instance) -> Path:
    """Where the result of an instance is, with its witness."""
    return folder / f"{instance.place:04d} {result_name(instance.name)}"


def result_name(name: str) -> str:
    """Of an instance's result file, behind its place: names too long for a file, which may begin alike, stay apart."""
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST - 17]} {hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f"{name}.txt"


@contextlib.contextmanager
def results_folder(out: Path | None) -> Iterator[Path]:
    """The folder of results, made where it is not there; None: one that is gone afterwards. Raises InputError."""
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
            self._done = {(row.name, row.timeout): row for row in rows_in(path) if not _uncertified(row, settings)}
            for instance in filter(self.has, instances):  # the list may know more by now
                row = self._done[instance.name, instance.timeout]
                wrong = row.wrong or contradiction(instance, InstanceStatus(row.status))
                expected, files = _word(instance.expected), cast(dict[str, Any], _files(instance))
                self._done[row.name, row.timeout] = replace(row, expected=expected, wrong=wrong, **files)
        self._save()  # a folder that cannot be written to is found out before anything is run

    def has(self, instance: Instance) -> bool:
        return (instance.name, instance.timeout) in self._done

    def add(self, row: BenchRow) -> None:
        with self._lock:
            self._done[row.name, row.timeout] = row
            self._save()

    def _save(self) -> None:
        write_rows(self.path, self._done.values())

    def rows(self) -> list[BenchRow]:
        return [self._done[key] for key in dict.fromkeys(self._keys) if key in self._done]


def write_rows(path: Path, rows: Iterable[BenchRow]) -> None:
    """Makes a table of results, or replaces it as a whole. Raises StoreError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(BenchRow)]
    writer.writerow(names)
    writer.writerows([getattr(row, name) for name in names] for row in rows)
    try:
        text_replaced(path, text.getvalue())
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def _word(expected: InstanceStatus | None) -> str:
    return "" if expected is None else expected.value


def _files(instance: Instance) -> dict[str, str]:
    """The fields of its row that name its files."""
    network = "" if instance.named else str(instance.network)
    return {"network_file": network, "property_file": str(instance.property_file)}


def rows_in(path: Path) -> list[BenchRow]:
    """The rows of a results.csv. Raises StoreError where it is none."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_row(line) for line in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{path} is not a table of results: {error}") from error


def _row(line: dict[str, str]) -> BenchRow:
    texts = {name: line[name] for name in ("name", "network", "expected", "wrong", "note")}
    status = InstanceStatus(line["status"]).value
    # earlier tables do not have these
    texts |= {name: line.get(name) or "" for name in ("certificates", "network_file", "property_file")}
    return BenchRow(timeout=float(line["timeout"]), status=status, seconds=float(line["seconds"]), **texts)


def _uncertified(row: BenchRow, settings: BenchSettings) -> bool:
    """Whether an instance has to be decided again for its certificates."""
    return settings.certificates is not None and row.status == "unsat" and row.certificates != "written"


def _settled(
    instance: Instance, result: Path, decided: Decided, table: _Table, say: Callable[[str], None] | None
) -> None:
    """Checks what became of an instance, and puts it into the table."""
    row = BenchRow(
        instance.name, instance.network_name, instance.timeout, _word(instance.expected), decided.status.value,
        decided.seconds, note=decided.note, certificates=decided.certificates, **_files(instance),
    )  # fmt: skip
    row = replace(row, wrong=complaint(instance, decided.status, result))
    table.add(row)
    if say is not None:
        say(f"{row.name}: {row.status} in {row.seconds:.2f} s{'  WRONG: ' + row.wrong if row.wrong else ''}")
