"""Which stages decided a list's instances, and with what the run was made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from verifier.report.blocks import Block, Cell, Facts, Table, Text, count, seconds
from verifier.report.section import section
from verifier.report.subjects import BenchRun
from verifier.vnncomp.bench import BenchRow

#: what the settings of a session mean
_NAMES = {
    "jobs": "instances at a time", "threads": "threads of each", "in_process": "forked by warm workers",
    "stages": "stages", "certificates": "certificates in",
}  # fmt: skip


@section("bench-stages", "Stages", 30, BenchRun)
def stages(run: BenchRun) -> Iterator[Block]:
    """By which stages the solved instances were decided, as far as their remarks say so."""
    by: dict[str, list[BenchRow]] = {}
    for row in run.rows:
        told = re.search(r"decided by ([\w, -]+)$", row.note)
        if row.solved and told is not None:
            by.setdefault(told[1], []).append(row)
    if not by:
        yield Text("No remark of a solved instance says which stage decided it.")
        return
    lines = [
        [Cell(name), count(len(rows), len(run.rows)), count(sum(r.status == "unsat" for r in rows)),
         count(sum(r.status == "sat" for r in rows)), seconds(sum(r.seconds for r in rows))]
        for name, rows in sorted(by.items(), key=lambda one: -len(one[1]))
    ]  # fmt: skip
    yield Table("Decided by", ("stages", "#instances", "#unsat", "#sat", "#seconds"), lines)


@section("bench-settings", "Settings and versions", 95, BenchRun)
def settings(run: BenchRun) -> Iterator[Block]:
    """Every session of the run."""
    if not run.sessions:
        yield Text("Not kept: the table was made by an earlier release, or is without the folder that it was made in.")
    for one in run.sessions:
        yield Facts(
            [("Session", f"started {one.get('started')}, on {one.get('machine', 'some machine')}"), *_facts(one)]
        )


def _facts(session: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    told = session.get("versions", {})
    yield "versions", ", ".join(f"{name} {version}" for name, version in told.items())
    for name, meaning in _NAMES.items():
        value = session.get(name)
        default = "by default" if name in ("stages", "threads") else "no"
        if name in session:
            yield meaning, default if value in (None, False) else "yes" if value is True else str(value)
