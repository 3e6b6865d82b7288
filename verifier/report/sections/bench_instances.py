"""Every instance of a list."""

from __future__ import annotations

from collections.abc import Iterator

from verifier.report.blocks import NONE, Block, Cell, Table, Text, seconds
from verifier.report.section import section
from verifier.report.sections.bench import TONES
from verifier.report.subjects import BenchRun
from verifier.vnncomp.bench import BenchRow

#: lines, at most
_MOST = 2000


@section("instances", "All instances", 40, BenchRun)
def instances(run: BenchRun) -> Iterator[Block]:
    """A line per instance."""
    if len(run.rows) > _MOST:
        yield Text(f"The first {_MOST} of {len(run.rows)}; results.csv has all.")
    shown = run.rows[:_MOST]
    yield Table(
        f"{len(shown)} instances", ("instance", "answer", "expected", "#seconds", "#limit", "remark"),
        [_line(row) for row in shown], folded=len(shown) > 20,
    )  # fmt: skip


def _line(row: BenchRow) -> list[Cell]:
    tone = "error" if row.wrong else TONES[row.status]
    return [
        Cell(row.name), Cell(f"{row.status}{' (wrong)' if row.wrong else ''}", tone=tone), Cell(row.expected or NONE),
        seconds(row.seconds), seconds(row.timeout), Cell(row.wrong or row.note),
    ]  # fmt: skip
