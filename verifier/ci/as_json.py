"""A record as JSON: one object, the same keys for every command."""

from __future__ import annotations

from typing import Any

from verifier.ci.record import Case, Record, State
from verifier.files import json_text


def as_json(record: Record) -> str:
    """The record as JSON.

    `command`, `passed` (no case failed or could not be worked on, and all expectations are met), `counts` by state,
    `expectations`, `about` and `cases`. Infinities are the strings "inf" and "-inf", NaN and absent values are null.
    """
    counts = {state.value: record.count(state) for state in State}
    bad = counts[State.FAILED.value] + counts[State.ERROR.value]
    document = {
        "command": record.command,
        "passed": not record.unmet and not bad,
        "counts": counts,
        "expectations": [{"name": e.name, "met": e.met, "message": e.message} for e in record.expectations],
        "about": record.about,
        "cases": [_case(case) for case in record.cases],
    }
    return json_text(document)


def _case(case: Case) -> dict[str, Any]:
    return {
        "name": case.name,
        "group": case.group,
        "outcome": case.outcome,
        "state": case.state.value,
        "seconds": case.seconds,
        "message": case.message or None,
        "text": case.text or None,
        "missing_certificate": case.missing or None,
        "details": case.details,
    }
