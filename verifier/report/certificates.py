"""Certificates beside a run: checked while the page is made, by the checker that imports nothing of what made them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from properties import Perturbation
from properties.vnnlib import Property
from verifier.certification.certificates import missing
from verifier.certification.expected import Expected
from verifier.certification.report import Report
from verifier.checker.audit import NETWORK, SUFFIX, Audited, audit, certificates_in
from verifier.checker.document import read_network
from verifier.checker.errors import CheckerError
from verifier.errors import InputError, VerifierError
from verifier.report.inputs import Inputs
from verifier.report.network import GivenNetwork
from verifier.report.subjects import CheckedFolder
from verifier.vnncomp.bench import BenchRow
from verifier.vnncomp.certificates import uncovered
from verifier.vnncomp.solve import read_property


def of_run(
    folder: Path, report: Report, inputs: Inputs | None, own: GivenNetwork | None, jobs: int | None
) -> CheckedFolder:
    """Checks the certificates of a run of `certify`.

    With its data, and where it asked about labels, each must be about its example and the run's perturbation.

    Raises:
        InputError: no such folder, or no network in it. CheckerError: its network cannot be read.
    """
    settings = report.meta["settings"]
    asked = Perturbation(settings["eps"], settings["threat"], settings["clip"])
    labelled = settings.get("question") is None
    judge: Callable[[Audited], Audited] | None = None
    compared = ""
    if inputs is not None and labelled:
        judge = Expected(inputs.data, asked, inputs.first).judged
        compared = "the inputs, the labels and the perturbation of this run"
    network, found = _audited(folder, judge, jobs)
    return CheckedFolder(
        network, found, compared, missing(folder), _command(folder, settings, inputs),
        own=None if own is None else network in own.certified,
    )  # fmt: skip


def of_instance(
    folder: Path, asked: Property, property_file: Path, network: Path | None, jobs: int | None
) -> CheckedFolder:
    """Checks the certificates of an instance: together they must cover its property. Raises as `of_run`.

    Args:
        network: the file; None where there are several, which the command that checks again does not take.
    """
    digest, found = _audited(folder, None, jobs)
    words = ["verifier", "check", str(folder), "--property", str(property_file)]
    words += [] if network is None else ["--model", str(network)]
    return CheckedFolder(
        digest, found, "the boxes and the clauses of the property", missing(folder), shlex.join(words),
        uncovered(found, asked),
    )  # fmt: skip


def of_list(folder: Path, rows: Sequence[BenchRow], jobs: int | None) -> Mapping[str, CheckedFolder | str]:
    """Checks the certificates of every unsat of a list, each in a folder of its instance's name; see `BenchRun`.

    Raises:
        InputError: no such folder, or none in it of any unsat.
    """
    proofs = [row for row in rows if row.status == "unsat"]
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder} with certificates")
    if proofs and not any((folder / row.name).is_dir() for row in proofs):
        raise InputError(f"{folder} has no folder of any unsat, such as {proofs[0].name!r}: is it of another run?")
    return {row.name: _of_row(folder / row.name, row, jobs) for row in proofs}


def _of_row(folder: Path, row: BenchRow, jobs: int | None) -> CheckedFolder | str:
    """What became of one instance's certificates; in words where they cannot be checked."""
    if not row.property_file:
        return "the results do not name the file of its property: run `bench --resume` once more"
    asked = Path(row.property_file)
    if not asked.is_file():
        return f"there is no {asked} here: start from the folder where it was decided"
    network = Path(row.network_file) if row.network_file else None
    try:
        return of_instance(folder, read_property(asked), asked, network, jobs)
    except (VerifierError, CheckerError) as error:  # of the others it says nothing
        return str(error)


def _audited(
    folder: Path, judge: Callable[[Audited], Audited] | None, jobs: int | None
) -> tuple[str, Sequence[Audited]]:
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder} with certificates")
    beside = folder / NETWORK
    if not beside.is_file():
        raise InputError(f"there is no {beside}: the folder is not one that `certify` or `vnnlib` wrote")
    network = read_network(beside)
    paths = certificates_in([folder]) if any(folder.glob(f"*{SUFFIX}")) else []
    found = list(audit(paths, network, jobs or os.cpu_count() or 1))
    return network.digest, found if judge is None else [judge(one) for one in found]


def _command(folder: Path, settings: Mapping[str, Any], inputs: Inputs | None) -> str:
    """What checks the certificates again; what only the reader knows is in capitals."""
    words = ["verifier", "check", str(folder), "--model", "MODEL"]
    if inputs is not None and settings.get("question") is None:
        words += ["--data", "DATA.npz", "--eps", f"{settings['eps']!r}", "--threat", str(settings["threat"])]
        if settings["clip"] is not None:
            words += ["--clip", ",".join(repr(end) for end in settings["clip"])]
    return shlex.join(words)
