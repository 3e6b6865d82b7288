"""A list of instances: how many of each answer, per network, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from verifier.report.blocks import Block, Cell, Table, Text, Tiles, count, percent, plural, seconds
from verifier.report.section import section
from verifier.report.subjects import BenchRun
from verifier.vnncomp.bench import BenchRow

#: answer -> its tone: unsat is a proof
TONES = {"unsat": "verified", "sat": "falsified", "unknown": "unknown", "timeout": "unknown", "error": "error"}


@section("answers", "Answers", 10, BenchRun)
def answers(run: BenchRun) -> Iterator[Block]:
    """The counts, and answers that are known to be wrong."""
    rows = run.rows
    wrong = [row for row in rows if row.wrong]
    solved = sum(row.solved for row in rows)
    yield Tiles([
        (f"{solved} of {len(rows)}", f"solved: {percent(solved, len(rows))}", ""),
        (str(_right(rows, "unsat")), "unsat: proved, no counterexample", "verified"),
        (str(_right(rows, "sat")), "sat: a counterexample, replayed", "falsified"),
        (str(len(wrong)), "wrong", "error"),
    ])  # fmt: skip
    if wrong:
        said = plural(len(wrong), "answer contradicts", "answers contradict")
        yield Text(f"{said} what is known: nothing else on this page outweighs that.", warning=True)
        yield Table("Wrong answers", ("instance", "answer", "why it is wrong"),
                    [[Cell(row.name), Cell(row.status, tone="error"), Cell(row.wrong)] for row in wrong])  # fmt: skip
    networks = list(dict.fromkeys(row.network for row in rows))
    lines = [_line(name, [row for row in rows if row.network == name]) for name in networks]
    if len(networks) > 1:
        yield Table("In all", _HEADS, [_line("all networks", rows)])
    yield Table("By network; medians are of the solved", _HEADS, lines, folded=len(lines) > 20)


_HEADS = ("network", "#instances", "#unsat", "#sat", "#wrong", "#unknown", "#timeout", "#error", "#seconds",
          "#median")  # fmt: skip


def _right(rows: Sequence[BenchRow], status: str) -> int:
    return sum(row.status == status and not row.wrong for row in rows)


def _line(name: str, rows: Sequence[BenchRow]) -> list[Cell]:
    solved = [row.seconds for row in rows if row.solved]
    return [
        Cell(name), count(len(rows)), count(_right(rows, "unsat"), len(rows)), count(_right(rows, "sat"), len(rows)),
        count(sum(bool(row.wrong) for row in rows)),
        *(count(_right(rows, word)) for word in ("unknown", "timeout", "error")),
        seconds(sum(row.seconds for row in rows)), seconds(median(solved) if solved else None),
    ]  # fmt: skip
