"""JUnit's XML, in the part of it that Jenkins, GitLab, GitHub's and Azure's readers agree on.

A suite holds the cases of one group; what was expected of all of them is a suite of its own, named `expectations`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree as xml

from verifier.ci.record import Case, Expectation, Record, State

#: what XML 1.0 has no way to write
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ELEMENTS = {State.FAILED: "failure", State.ERROR: "error", State.SKIPPED: "skipped"}


def junit(record: Record) -> str:
    """The record as a file of JUnit's: `testsuites` with a suite for each group."""
    groups = dict.fromkeys(case.group for case in record.cases)
    suites = [_suite(group, [case for case in record.cases if case.group == group]) for group in groups]
    suites += [_suite("expectations", [_expected(e) for e in record.expectations])] if record.expectations else []
    root = xml.Element("testsuites", name=_text(f"verifier {record.command}"), time=f"{record.seconds:.3f}")
    for total in ("tests", "failures", "errors"):
        root.set(total, str(sum(int(suite.get(total, "0")) for suite in suites)))
    root.extend(suites)
    xml.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{xml.tostring(root, encoding="unicode")}\n'


def _suite(name: str, cases: Sequence[Case]) -> xml.Element:
    counts = {key: sum(case.state is state for case in cases) for state, key in _COUNTED.items()}
    attributes = {"name": name, "tests": len(cases), **counts, "time": f"{sum(case.seconds for case in cases):.3f}"}
    suite = xml.Element("testsuite", {key: _text(str(value)) for key, value in attributes.items()})
    suite.extend(_case(case) for case in cases)
    return suite


_COUNTED = {State.FAILED: "failures", State.ERROR: "errors", State.SKIPPED: "skipped"}


def _case(case: Case) -> xml.Element:
    made = xml.Element("testcase", name=_text(case.name), classname=_text(case.group), time=f"{case.seconds:.3f}")
    if case.state is not State.PASSED:
        message = f"{case.outcome}: {case.message}" if case.message else case.outcome
        why = xml.SubElement(made, _ELEMENTS[case.state], message=_text(message))
        if case.state is not State.SKIPPED:
            why.set("type", _text(case.outcome))
        why.text = _text(case.text) or None
    details = {name: value for name, value in case.details.items() if value not in (None, "")}
    lines = [f"outcome: {case.outcome}", *(f"{name}: {_plain(value)}" for name, value in details.items())]
    xml.SubElement(made, "system-out").text = _text("\n".join(lines))
    return made


def _expected(expectation: Expectation) -> Case:
    state = State.PASSED if expectation.met else State.FAILED
    outcome = "met" if expectation.met else "not met"
    return Case(expectation.name, "expectations", outcome, state, message=expectation.message)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _text(text: str) -> str:
    return _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text)
