"""Pages on the results of `bench` and of `vnnlib`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from properties.vnnlib import Property
from verifier.errors import InputError, VerifierError
from verifier.files import check_file
from verifier.report.certificates import of_instance, of_list
from verifier.report.page import Chapter
from verifier.report.peer import answers_of
from verifier.report.subjects import BenchRun, InstanceRun
from verifier.report.write import write_page
from verifier.vnncomp.answer import InstanceStatus
from verifier.vnncomp.bench import TABLE, rows_in
from verifier.vnncomp.bench_about import sessions_in
from verifier.vnncomp.bench_list import Instance
from verifier.vnncomp.networks import network_of
from verifier.vnncomp.recheck import complaint
from verifier.vnncomp.result_file import parsed
from verifier.vnncomp.solve import read_property


def bench_report(
    results: Path, out: Path, against: Path | None = None, *, certificates: Path | None = None, jobs: int | None = None
) -> None:
    """Writes a page on the results of a list, or of a folder of properties.

    Args:
        results: results.csv of `verifier bench`, or the folder with it.
        against: answers of another tool, or of another run (verifier.report.peer).
        certificates: the folder with a folder for each unsat; they are checked while the page is made.
        jobs: as of `html_report`.

    Raises:
        InputError, StoreError: a file cannot be read, or jinja2 or matplotlib is missing. OSError.
    """
    table = results / TABLE if results.is_dir() else results
    if not table.is_file():
        raise InputError(f"there is no {table}: give the folder that `bench` wrote, or its {TABLE}")
    rows = rows_in(table)
    if not rows:
        raise InputError(f"{table} has no results yet")
    peer = None if against is None else (_name(against), answers_of(against))
    if peer is not None and not any(row.name in peer[1] for row in rows):
        first = next(iter(peer[1]), "none")
        raise InputError(
            f"{against} has no answer to any instance of {table}: instances are called {rows[0].name!r} here, and "
            f"{first!r} there"
        )
    name, sessions = _name(table), sessions_in(table.parent)
    checked = None if certificates is None else of_list(certificates, rows, jobs)
    write_page(f"Results of {name}", [Chapter("", BenchRun("Rampart", rows, peer, checked, sessions))], out)


def instance_report(
    result: Path,
    networks: Mapping[str, Path],
    property_file: Path,
    out: Path,
    *,
    certificates: Path | None = None,
    pixels: tuple[int, ...] | None = None,
    jobs: int | None = None,
) -> None:
    """Writes a page on one instance of VNN-LIB.

    Args:
        result: the file that `verifier vnnlib --out` wrote.
        networks: by their names in the property; one of the name "" where it has no names.
        certificates: the folder of an unsat's certificates; they are checked while the page is made.
        pixels, jobs: as of `html_report`.

    Raises:
        VerifierError, CheckerError: a file cannot be used, or jinja2 or matplotlib is missing. OSError.
    """
    for path in (*networks.values(), property_file):
        check_file(path)
    asked = read_property(property_file)
    status, witness = parsed(result, asked)
    single = networks.get("")
    doubt, shape = "", None
    if status is InstanceStatus.SAT:
        named = () if single is not None else tuple(networks.items())
        instance = Instance(next(iter(networks.values())), property_file, float("inf"), None, named=named)
        doubt = complaint(instance, status, result).removeprefix("sat, but ")
        shape = _shape(asked, single)
    checked = None if certificates is None else of_instance(certificates, asked, property_file, single, jobs)
    run = InstanceRun(result, status, networks, property_file, asked, witness, doubt, checked, pixels, shape)
    write_page(f"{status.value}: {property_file.name}", [Chapter("", run)], out)


def _name(path: Path) -> str:
    """What to call a table: its own name, or that of its folder where all are called the same."""
    return path.resolve().parent.name if path.name == TABLE else path.stem


def _shape(asked: Property, network: Path | None) -> tuple[int, ...] | None:
    """Of the network's input, to see whether it is an image; None where that cannot be said."""
    if network is None:
        return None
    try:
        return tuple(network_of(asked, network).input_shape)
    except VerifierError:  # the answer does not depend on it: there is a table of numbers in any case
        return None
