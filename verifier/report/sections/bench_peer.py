"""Another tool's answers beside ours: who solves what, who is faster, and where the two contradict each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from verifier.report.blocks import Block, Cell, Figure, Table, Text, plural, seconds
from verifier.report.figures import COLOURS, drawn, logarithmic
from verifier.report.peer import PeerAnswer
from verifier.report.section import section
from verifier.report.sections.bench import TONES
from verifier.report.subjects import BenchRun
from verifier.vnncomp.bench import BenchRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pairs = Sequence[tuple[BenchRow, PeerAnswer]]
#: seconds that the axes begin with, at least
_LEAST = 0.01


@section("peer", "Against another", 30, BenchRun)
def peer(run: BenchRun) -> Iterator[Block]:
    """Of the instances that both have."""
    if run.peer is None:
        return
    name, answers = run.peer
    pairs = [(row, answers[row.name]) for row in run.rows if row.name in answers]
    lacking = len(run.rows) - len(pairs)
    both = [(a, b) for a, b in pairs if a.solved and b.solved]
    against = [(a, b) for a, b in both if a.status != b.status]
    yield Text(
        f"{name} has an answer to {len(pairs)} of the {plural(len(run.rows), 'instance')}"
        + (f"; the other {lacking} are left out here." if lacking else ".")
        + " Times of different machines are told apart by their ratios at most."
    )
    if against:
        yield Text(f"The two contradict each other on {plural(len(against), 'instance')}.", warning=True)
        yield _table("Contradictions", name, against)
    faster = sum(a.seconds < b.seconds for a, b in both)
    ours = [(a, b) for a, b in pairs if a.solved and not b.solved]
    theirs = [(a, b) for a, b in pairs if b.solved and not a.solved]
    yield Table(
        f"Rampart and {name}", ("instances", "#how many"),
        [
            [Cell(what), Cell(str(n), n)]
            for what, n in (
                ("solved by both", len(both)), (f"of those, faster than {name}", faster),
                ("solved by Rampart alone", len(ours)), (f"solved by {name} alone", len(theirs)),
                ("solved by neither", len(pairs) - len(both) - len(ours) - len(theirs)),
            )
        ],
    )  # fmt: skip
    if both:
        yield Figure(
            drawn("scatter", lambda axis: _draw(axis, pairs, name), height=3.6),
            f"Seconds of both on a logarithmic scale, one point per instance: of {len(both)} instances that both "
            f"solve, Rampart is faster on {faster}.",
            "Seconds per instance; below the line Rampart is faster. Crosses are solved by one of the two alone.",
        )  # fmt: skip
    if theirs:
        yield _table(f"Solved by {name} alone", name, theirs)
    if ours:
        yield _table("Solved by Rampart alone", name, ours)


def _table(caption: str, name: str, pairs: Pairs) -> Table:
    return Table(
        caption, ("instance", "Rampart", "#seconds", name, f"#seconds of {name}"),
        [
            [Cell(a.name), Cell(a.status, tone=TONES[a.status]), seconds(a.seconds),
             Cell(b.status, tone=TONES[b.status]), seconds(b.seconds)]
            for a, b in pairs
        ],
        folded=len(pairs) > 20,
    )  # fmt: skip


def _draw(axis: Axes, pairs: Pairs, name: str) -> None:
    shown = [(a, b) for a, b in pairs if a.solved or b.solved]
    times = [max(_LEAST, t) for a, b in shown for t in (a.seconds, b.seconds)]
    ends = [min(times) / 1.3, max(times) * 1.3]
    axis.plot(ends, ends, color=COLOURS["muted"], linewidth=0.8)
    for alone, marker, tone, label in ((False, "o", "verified", "both"), (True, "x", "second", "one alone")):
        part = [(a, b) for a, b in shown if (a.solved != b.solved) is alone]
        if part:
            axis.scatter(
                [max(_LEAST, b.seconds) for _, b in part], [max(_LEAST, a.seconds) for a, _ in part], s=22,
                marker=marker, color=COLOURS[tone], label=f"solved by {label}: {len(part)}",
            )  # fmt: skip
    for which in ("x", "y"):
        logarithmic(axis, which, *ends)
    axis.set_xlabel(f"seconds of {name}")
    axis.set_ylabel("seconds of Rampart")
    axis.figure.legend(loc="outside upper left", ncols=1)
