"""Results of one list, made by several machines, become one folder: a row for each instance, and its result file."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from verifier.certification.join import Joined
from verifier.certification.merge_sweeps import whole_folder
from verifier.checker.audit import NETWORK
from verifier.errors import InputError, StoreError
from verifier.vnncomp.bench import TABLE, BenchRow, result_name, rows_in, write_rows
from verifier.vnncomp.bench_about import join_sessions

#: of the name of a result file (bench.result_file)
_PLACE = re.compile(r"(\d{4,}) ")
#: of two rows the one is kept whose word comes first here
_KNOWN = ("sat", "unsat", "unknown", "timeout", "error")


def merge_results(
    folders: Sequence[Path], out: Path, certificates: Sequence[Path] = (), certificates_out: Path | None = None
) -> list[BenchRow]:
    """One folder of what several have, such as those of `verifier bench --shard`; its rows, in the list's order.

    Of two rows of an instance the one that is decided is kept, or else the one that took less time. `bench --resume`
    goes on with the new folder.

    Args:
        folders: two or more, with results.csv. out: the new one, which must not exist; written whole or not at all.
        certificates: folders with a folder for each unsat. certificates_out: the one to make of them.

    Raises:
        InputError: fewer than two folders, one without results, or one that cannot be written.
        StoreError: an instance that is sat in one and unsat in another, or has another limit or expectation; or a
            damaged table; certificates that claim different things.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise InputError("merge takes two folders of results or more, each once")
    for folder in folders:
        if not (folder / TABLE).is_file():
            raise InputError(f"there is no {folder / TABLE}: give folders that `bench --out` wrote")
    best: dict[str, tuple[BenchRow, Path]] = {}
    for folder in folders:
        for row in rows_in(folder / TABLE):
            known = best.get(row.name)
            if known is not None:
                _check_agree(known[0], row, f"{known[1] / TABLE} and {folder / TABLE}")
            best[row.name] = min(filter(None, (known, (row, folder))), key=lambda found: _order(found[0]))
    files = {row.name: _result_file(folder, row) for row, folder in best.values()}
    rows = sorted((row for row, _ in best.values()), key=lambda row: (_place(files[row.name]), row.name))
    with whole_folder(out) as made:
        for file in filter(None, files.values()):
            shutil.copyfile(file, made / file.name)
        write_rows(made / TABLE, rows)
        join_sessions(folders, made)
        if certificates_out is not None:
            _join(certificates, certificates_out)
    return rows


def _check_agree(a: BenchRow, b: BenchRow, where: str) -> None:
    """Raises StoreError where two rows of one instance cannot both be right, or are of different lists."""
    if a.timeout != b.timeout:
        limits = f"{a.timeout:g} s in one, {b.timeout:g} s in the other"
        raise StoreError(f"{where} are not of one list: the limit of {a.name!r} is {limits}")
    if a.expected and b.expected and a.expected != b.expected:
        raise StoreError(f"{where} are not of one list: {a.name!r} should be {a.expected} and {b.expected}")
    if {a.status, b.status} == {"sat", "unsat"} and not (a.wrong or b.wrong):
        raise StoreError(
            f"{where} contradict each other: {a.name!r} is {a.status} and {b.status}, and one of the two is wrong. "
            "Nothing is merged; check the witness of the one and the certificates of the other"
        )


def _order(row: BenchRow) -> tuple[object, ...]:
    """Smaller is better; which folder a row is from has no part in it. What is wrong is not hidden by what is not."""
    return (not row.wrong, _KNOWN.index(row.status), row.certificates != "written", row.seconds, repr(row))


def _result_file(folder: Path, row: BenchRow) -> Path | None:
    """None: it has left none, as one that was killed."""
    name = result_name(row.name)
    return next((file for file in sorted(folder.glob("*.txt")) if _PLACE.sub("", file.name, count=1) == name), None)


def _place(file: Path | None) -> tuple[bool, int]:
    """In the list; at its end where that is not known."""
    matched = None if file is None else _PLACE.match(file.name)
    return (True, 0) if matched is None else (False, int(matched[1]))


def _join(folders: Sequence[Path], out: Path) -> None:
    """The certificates of each instance. Raises as `Joined.of`."""
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"there is no folder of certificates at {folder}")
    with whole_folder(out) as made:
        for name in sorted({place.parent.name for folder in folders for place in folder.glob(f"*/{NETWORK}")}):
            Joined.of([folder / name for folder in folders if (folder / name / NETWORK).is_file()], made / name).write()
