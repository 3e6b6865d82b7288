"""The records of `vnnlib`, of one instance or of a folder, and of `bench`: a case for each instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from verifier.ci.record import Case, Expectation, Record, State
from verifier.vnncomp.answer import InstanceStatus

if TYPE_CHECKING:
    from verifier.vnncomp.bench import BenchRow
    from verifier.vnncomp.bench_list import Instance


def instance_case(name: str, group: str, status: InstanceStatus, expected: InstanceStatus | None, **more: Any) -> Case:
    """One instance of which the user asks what is so: a proof passes, and a counterexample does where it is expected.

    Args:
        more: further fields of the case.
    """
    return Case(name, group, status.value, _state(status, expected), decided=status.solved, **more)


def expecting(record: Record, expected: InstanceStatus | None) -> Record:
    """The same where every instance is expected to have this answer; None: nothing is."""
    if expected is None:
        return record
    other = [case for case in record.cases if case.outcome != expected.value]
    found = f"{len(record.cases) - len(other)} of {len(record.cases)} are {expected.value}"
    found += f"; the first that is not, {other[0].name}, is {other[0].outcome}" if other else ""
    return record.expecting(Expectation(f"--expect {expected.value}", not other, found))


def folder_record(
    rows: Sequence[BenchRow], instances: Sequence[Instance], witnesses: Sequence[str],
    expected: InstanceStatus | None, about: dict[str, Any],
) -> Record:  # fmt: skip
    """The record of a folder of properties, each a case.

    Args:
        witnesses: the text of each instance's result where it has a witness; else empty.
    """
    found = zip(rows, instances, witnesses, strict=True)
    cases = tuple(replace(_asked(row, one, expected), text=witness) for row, one, witness in found)
    return expecting(Record("vnnlib", cases, about=about), expected)


def bench_record(rows: Sequence[BenchRow], instances: Sequence[Instance], about: dict[str, Any]) -> Record:
    """The record of a list: an answer fails where it is known to be wrong."""
    return Record("bench", tuple(_listed(*one) for one in zip(rows, instances, strict=True)), about=about)


def _asked(row: BenchRow, instance: Instance, expected: InstanceStatus | None) -> Case:
    status = InstanceStatus(row.status)
    wanted = expected or (InstanceStatus(row.expected) if row.expected else None)
    case = instance_case(row.name, row.network, status, wanted, **_common(row, instance))
    return _wrong(row, case) if row.wrong else case


def _listed(row: BenchRow, instance: Instance) -> Case:
    status = InstanceStatus(row.status)
    state = State.PASSED if status.solved else _state(status, None)
    case = Case(row.name, row.network, row.status, state, decided=status.solved, **_common(row, instance))
    return _wrong(row, case) if row.wrong else case


def _wrong(row: BenchRow, case: Case) -> Case:
    return replace(case, state=State.FAILED, decided=True, message=f"WRONG: {row.wrong}")


def _common(row: BenchRow, instance: Instance) -> dict[str, Any]:
    missing = row.note or "none was written" if row.certificates == "missing" else ""
    networks = {name: str(path) for name, path in instance.named or (("network", instance.network),)}
    files = {"networks": networks, "property": str(instance.property_file)}
    message = "" if InstanceStatus(row.status).solved else row.note
    return {"seconds": row.seconds, "message": message, "missing": missing, "details": {**files, **asdict(row)}}


def _state(status: InstanceStatus, expected: InstanceStatus | None) -> State:
    if status is InstanceStatus.ERROR:
        return State.ERROR
    if expected is not None:
        return State.PASSED if status is expected else State.FAILED
    return {InstanceStatus.UNSAT: State.PASSED, InstanceStatus.SAT: State.FAILED}.get(status, State.SKIPPED)
