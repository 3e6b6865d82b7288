"""The record of a run of `certify`: a case for each example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from verifier.certification.example import ExampleOutcome, ExampleRow
from verifier.certification.report import fields_of
from verifier.ci.record import Case, Expectation, Record, State

if TYPE_CHECKING:
    from verifier.certification import Report

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
    why = {} if missing is None else missing
    cases = tuple(_case(row, share is not None, why.get(row.index, "")) for row in report.rows())
    summary = report.summary()
    record = Record("certify", cases, about={**report.meta, "summary": summary})
    return record if share is None else record.expecting(_at_least(share, float(summary["verified_accuracy"])))


def _at_least(share: float, found: float) -> Expectation:
    return Expectation(f"--fail-under {share:.12g}", found >= share, f"verified accuracy {found:.12g}")


def _case(row: ExampleRow, shared: bool, missing: str) -> Case:
    state = _STATES[row.outcome]
    return Case(
        f"example {row.index}",
        "certify",
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
