"""Which examples of a run are tried again."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from verifier.certification.example import ExampleOutcome, ExampleRow
from verifier.certification.store import Snapshot
from verifier.errors import InputError

_OUTCOMES = {outcome.value: outcome for outcome in (ExampleOutcome.UNKNOWN, ExampleOutcome.ERROR)}


def retried(retry: str | Sequence[str]) -> frozenset[ExampleOutcome]:
    """The outcomes that are tried again. Raises InputError: others than UNKNOWN and ERROR have their answer."""
    names = retry.split(",") if isinstance(retry, str) else list(retry)
    found = {_OUTCOMES.get(name.strip().lower()) if isinstance(name, str) else None for name in names}
    if None in found:
        raise InputError(f'retry must be "unknown", "error", or "unknown,error", got {retry!r}: the others are decided')
    return frozenset(outcome for outcome in found if outcome is not None)


def to_retry(state: Snapshot, asked: Container[int], outcomes: Container[ExampleOutcome]) -> dict[int, ExampleRow]:
    """The rows that are to be tried again, by index.

    What is UNKNOWN after an attempt with the settings of the session at hand, the last, by the same release, is not:
    it has had that attempt. Errors may be over, such as a lack of memory, and have theirs every time.

    Args:
        asked: indices that the session is about.
    """
    pains = [_pains(session) for session in state.meta["sessions"]]
    return {
        e.index: e
        for e in state.examples
        if e.index in asked
        and e.outcome in outcomes
        and (e.outcome is ExampleOutcome.ERROR or pains[-1] not in pains[e.session : e.session + 1])
    }


def _pains(session: dict[str, Any]) -> tuple[Any, Any]:
    return session["settings"], session["versions"]
