"""Examples that raised: what was said, and where."""

from __future__ import annotations

from collections.abc import Iterator

from verifier.certification.example import ExampleOutcome
from verifier.report.blocks import Block, Cell, Log, Table, label, plural
from verifier.report.section import section
from verifier.report.subjects import CertifyRun

#: tracebacks shown, at most
_TRACES = 20


@section("errors", "Errors", 90, CertifyRun)
def errors(run: CertifyRun) -> Iterator[Block]:
    """A line per example, then the tracebacks."""
    raised = [row for row in run.rows if row.outcome is ExampleOutcome.ERROR]
    if not raised:
        return
    yield Table(
        f"{plural(len(raised), 'example')} raised an error; they count as not proved", ("#example", "#label", "error"),
        [[Cell(str(row.index), row.index), label(row.label), Cell(row.error or "")] for row in raised],
    )  # fmt: skip
    for row in raised[:_TRACES]:
        if row.traceback:
            yield Log(f"traceback of example {row.index}", row.traceback)
