"""Every example of a run."""

from __future__ import annotations

from collections.abc import Iterator

from verifier.certification.example import ExampleRow
from verifier.report.blocks import NONE, Block, Cell, Table, Text, label, number, seconds
from verifier.report.section import section
from verifier.report.subjects import CertifyRun
from verifier.report.words import outcome_of

#: lines, at most: the page stays small
_MOST = 1000


@section("examples", "All examples", 100, CertifyRun)
def examples(run: CertifyRun) -> Iterator[Block]:
    """A line per example, folded."""
    if not run.rows:
        return
    if len(run.rows) > _MOST:
        yield Text(f"The first {_MOST} of {len(run.rows)}; `verifier show {run.name} --csv FILE` writes all of them.")
    heads = ("#example", "#label", "#prediction", "verdict", "#proved margin", "#attacked margin", "stage", "trust",
             "#seconds", "float32 agrees")  # fmt: skip
    yield Table(f"{min(_MOST, len(run.rows))} examples", heads, [_line(run, row) for row in run.rows[:_MOST]],
                folded=True)  # fmt: skip


def _line(run: CertifyRun, row: ExampleRow) -> list[Cell]:
    outcome = outcome_of(run, row)
    prediction = Cell(NONE) if row.prediction is None else Cell(str(row.prediction), row.prediction)
    trust = NONE if row.trust is None else row.trust.name
    agrees = NONE if row.float32_agrees is None else "yes" if row.float32_agrees else "no"
    return [
        Cell(str(row.index), row.index), label(row.label), prediction, Cell(outcome, tone=outcome),
        number(row.margin), number(row.attack_margin), Cell(row.stage or NONE), Cell(trust), seconds(row.seconds),
        Cell(agrees),
    ]  # fmt: skip
