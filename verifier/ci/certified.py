"""The record of a run of `certify`: a case for each example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from verifier.certification.example import ExampleOutcome, ExampleRow
from verifier.certification.report import fields_of
from verifier.ci.record import Case, Expectation, Record, State

if TYPE_CHECKING:
    from verifier.certification import Report, Sweep

_STATES = {
    ExampleOutcome.VERIFIED: State.PASSED,
    ExampleOutcome.FALSIFIED: State.FAILED,
    ExampleOutcome.UNKNOWN: State.SKIPPED,
    ExampleOutcome.ERROR: State.ERROR,
}


def certified(report: Report, share: float | None = None, missing: Mapping[int, str] | None = None) -> Record:
    """The record of a report.

    Args:
        share: the verified accuracy that is expected at least. Single examples that are broken fail nothing then: the
            share is what passes or fails.
        missing: why examples have no certificate though they are VERIFIED, by index.
    """
    record = Record("certify", _cases(report, share, missing, "certify"), about=_about(report))
    return record if share is None else record.expecting(_at_least(share, report))


def sweep_certified(
    sweep: Sweep, share: float | None = None, missing: Mapping[float, Mapping[int, str]] | None = None
) -> Record:
    """The record of a sweep: a group of cases for each radius, and what is expected is expected of each.

    Args:
        share, missing: as of `certified`; what is missing by radius.
    """
    each = list(zip(sweep.eps, sweep, strict=True))
    why = {} if missing is None else missing
    groups = [_cases(report, share, why.get(eps), f"certify eps {eps!r}") for eps, report in each]
    cases = tuple(case for group in groups for case in group)
    record = Record("certify", cases, about={"sweep": [_about(report) for report in sweep]})
    return record if share is None else record.expecting(*(_at_least(share, r, f" at eps {eps!r}") for eps, r in each))


def _about(report: Report) -> dict[str, Any]:
    return {**report.meta, "summary": report.summary()}


def _at_least(share: float, report: Report, where: str = "") -> Expectation:
    found = float(report.summary()["verified_accuracy"])
    return Expectation(f"--fail-under {share:.12g}{where}", found >= share, f"verified accuracy {found:.12g}")


def _cases(report: Report, share: float | None, missing: Mapping[int, str] | None, group: str) -> tuple[Case, ...]:
    why = {} if missing is None else missing
    return tuple(_case(row, share is not None, why.get(row.index, ""), group) for row in report.rows())


def _case(row: ExampleRow, shared: bool, missing: str, group: str) -> Case:
    state = _STATES[row.outcome]
    return Case(
        f"example {row.index}",
        group,
        row.outcome.value,
        State.SKIPPED if shared and state is State.FAILED else state,
        decided=row.outcome in (ExampleOutcome.VERIFIED, ExampleOutcome.FALSIFIED),
        seconds=row.seconds,
        message=_message(row),
        text=row.traceback or "",
        missing=missing if row.outcome is ExampleOutcome.VERIFIED else "",
        details=fields_of(row),
    )


def _message(row: ExampleRow) -> str:
    if row.outcome is ExampleOutcome.FALSIFIED:
        return f"label {row.label}, prediction {row.prediction}, decided by {row.stage}"
    return row.error or (row.reason.value if row.reason is not None else "")
