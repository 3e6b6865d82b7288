"""How many instances are solved within how many seconds each: a line per tool, seconds on a logarithmic axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from verifier.report.blocks import Block, Figure
from verifier.report.figures import COLOURS, SERIES, drawn, logarithmic, whole_numbers
from verifier.report.section import section
from verifier.report.subjects import BenchRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: seconds that the axis tells apart, at least
_LEAST = 0.01


@section("cactus", "Solved within a time", 20, BenchRun)
def cactus(run: BenchRun) -> Iterator[Block]:
    """Over all instances; with a peer, over those that both have."""
    lines, over = _lines(run)
    if not any(lines.values()):
        return
    told = "; ".join(
        f"{name} solves {len(times)}" + (f", half of them within {times[(len(times) - 1) // 2]:.3g} s" if times else "")
        for name, times in lines.items()
    )
    yield Figure(
        drawn("cactus", lambda axis: _draw(axis, lines, over)), f"Cactus plot of {over} instances: {told}.",
        f"Instances solved, with right answers, when each is given so many seconds; {over} instances.",
    )  # fmt: skip


def _lines(run: BenchRun) -> tuple[Mapping[str, list[float]], int]:
    """Sorted seconds of the solved instances by tool, and the number of instances."""
    if run.peer is None:
        return {run.name: sorted(row.seconds for row in run.rows if row.solved)}, len(run.rows)
    name, answers = run.peer
    both = [row for row in run.rows if row.name in answers]
    others = [answers[row.name] for row in both]
    right = [
        answer.seconds
        for row, answer in zip(both, others, strict=True)
        if answer.solved and row.expected in ("", answer.status)
    ]
    return {run.name: sorted(row.seconds for row in both if row.solved), name: sorted(right)}, len(both)


def _draw(axis: Axes, lines: Mapping[str, list[float]], over: int) -> None:
    every = [max(_LEAST, second) for times in lines.values() for second in times]
    first, last = min(every) / 1.5, max(every) * 1.1
    for (name, times), (tone, dashes, _) in zip(lines.items(), SERIES, strict=False):
        places = [max(_LEAST, second) for second in times]
        axis.step(
            [first, *places, last], [0, *range(1, len(places) + 1), len(places)], dashes, where="post",
            color=COLOURS[tone], label=f"{name}: {len(times)} of {over}", linewidth=1.8,
        )  # fmt: skip
    logarithmic(axis, "x", first, last)
    axis.set_xlabel("seconds per instance (logarithmic)")
    axis.set_ylabel("instances solved")
    axis.set_ylim(0, max(1, over) * 1.03)
    whole_numbers(axis)
    axis.figure.legend(loc="outside upper left", ncols=1)
