"""What a command found, in the form that all commands share: cases, and what was expected of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any


class State(Enum):
    """What a case means to those who only want to know whether all is well."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"  #: neither: it was not decided
    ERROR = "error"  #: it could not be worked on


@dataclass(frozen=True)
class Case:
    """One example, instance or certificate."""

    name: str
    group: str  #: what it belongs to: a network, a folder, a run
    outcome: str  #: the command's own word, such as verified, unsat or valid
    state: State
    decided: bool = True  #: whether the outcome is an answer
    seconds: float = 0.0
    message: str = ""  #: why it is not passed, in one line
    text: str = ""  #: more lines, such as a traceback
    missing: str = ""  #: why a proof has no certificate where one was asked for; empty where nothing is missing
    details: Mapping[str, Any] = field(default_factory=dict)  #: JSON values; infinities are allowed

    @property
    def complete(self) -> bool:
        """Whether there is an answer, with its certificate where one was asked for."""
        return self.decided and not self.missing


@dataclass(frozen=True)
class Expectation:
    """Something that the user expected of all cases together."""

    name: str  #: as it was asked for, such as --fail-under 0.9
    met: bool
    message: str  #: what was found


@dataclass(frozen=True)
class Record:
    """What a command found."""

    command: str
    cases: tuple[Case, ...]
    expectations: tuple[Expectation, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)  #: what was asked, and by what; JSON values

    @property
    def unmet(self) -> tuple[Expectation, ...]:
        """The expectations that are not met."""
        return tuple(e for e in self.expectations if not e.met)

    @property
    def seconds(self) -> float:
        """All cases' together."""
        return sum(case.seconds for case in self.cases)

    def count(self, state: State) -> int:
        """How many cases are in that state."""
        return sum(case.state is state for case in self.cases)

    def expecting(self, *more: Expectation) -> Record:
        """The same with further expectations."""
        return replace(self, expectations=(*self.expectations, *more))

    def strict(self) -> Record:
        """The same where everything has to be decided: what is not, or lacks its certificate, is a failure."""
        cases = tuple(_strictly(case) for case in self.cases)
        found = _undecided([case for case in self.cases if not case.complete], self.cases)
        return replace(self, cases=cases).expecting(Expectation("--strict", not found, found or "all are decided"))


def _strictly(case: Case) -> Case:
    if case.missing:
        why = f"no certificate: {case.missing}"
        return replace(case, state=State.FAILED, message=f"{case.message}; {why}" if case.message else why)
    open_ = not case.decided and case.state is State.SKIPPED
    return replace(case, state=State.FAILED) if open_ else case


def _undecided(cases: Sequence[Case], every: Sequence[Case]) -> str:
    """How many cases are not decided or lack a certificate, and which is the first; empty where there are none."""
    if not cases:
        return ""
    first = cases[0]
    why = f"no certificate: {first.missing}" if first.missing else first.message
    named = f"{first.name} ({first.group})" if sum(case.name == first.name for case in every) > 1 else first.name
    said = f"{named}, is {first.outcome}{f': {why}' if why else ''}"
    return f"{len(cases)} of {len(every)} are not decided or lack a certificate; the first, {said}"
