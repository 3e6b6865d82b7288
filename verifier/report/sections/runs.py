"""Several runs side by side, and their accuracies over eps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from verifier.report.blocks import NONE, Block, Cell, Figure, Table, Text, percent
from verifier.report.figures import COLOURS, SERIES, drawn
from verifier.report.section import section
from verifier.report.subjects import CertifyRun, CertifyRuns
from verifier.report.words import asked_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: the accuracies, and how each is drawn
_LINES = (("clean_accuracy", "correct", ":", "muted"), ("attacked_accuracy", "not broken", "--", "second"),
          ("verified_accuracy", "verified", "-", "verified"))  # fmt: skip


@section("runs", "All runs", 5, CertifyRuns)
def runs(every: CertifyRuns) -> Iterator[Block]:
    """A line per run; a curve where runs differ in eps alone."""
    data = {run.report.meta["data"] for run in every.runs}
    if len(data) > 1:
        yield Text("The runs are about different data: their shares cannot be compared number by number.", warning=True)
    heads = ("run", "network", "#eps", "asked", "#examples", *(f"#{what}" for _, what, *_ in _LINES), "#undecided",
             "#errors", "#seconds")  # fmt: skip
    yield Table("One line per run; shares are of its examples", heads, [_line(run) for run in every.runs])
    curves = _curves(every.runs)
    if curves:
        told = "; ".join(
            f"{name or 'verified accuracy'}: "
            + ", ".join(f"{percent(run.summary['verified_accuracy'], 1)} at {run.settings['eps']:g}" for run in line)
            for name, line in curves.items()
        )
        yield Figure(
            drawn("curve", lambda axis: _draw(axis, curves)), f"Accuracies over eps. {told}.",
            "Accuracies over eps. The true robust accuracy lies between what is verified and what no attack broke.",
        )  # fmt: skip


def _line(run: CertifyRun) -> list[Cell]:
    summary, settings = run.summary, run.settings
    shares = [summary[key] for key, *_ in _LINES]
    return [
        Cell(run.name), Cell(run.report.meta["model"][:12], pre=True),
        Cell(f"{settings['eps']:.6g}", settings["eps"]),
        Cell(asked_of(settings)), Cell(str(summary["examples"]), summary["examples"]),
        *(Cell(NONE) if value != value else Cell(percent(value, 1), value) for value in shares),
        Cell(str(summary["undecided"]), summary["undecided"]), Cell(str(summary["errors"]), summary["errors"]),
        Cell(f"{summary['seconds']:.2f}", summary["seconds"]),
    ]  # fmt: skip


def _curves(every: Sequence[CertifyRun]) -> Mapping[str, list[CertifyRun]]:
    """Runs on the same question, by what tells them from others (empty where all are), each with two radii or more."""
    alike: dict[tuple[str, str], list[CertifyRun]] = defaultdict(list)
    for run in every:
        alike[run.report.meta["model"], asked_of(run.settings)].append(run)
    lines = {}
    for (model, asked), group in alike.items():
        if len({run.settings["eps"] for run in group}) > 1:
            name = f"{asked}, network {model[:12]}" if len(alike) > 1 else ""
            lines[name] = sorted(group, key=lambda run: float(run.settings["eps"]))
    return lines if len(lines) <= len(SERIES) else {}


def _draw(axis: Axes, curves: Mapping[str, list[CertifyRun]]) -> None:
    for (name, line), (tone, _, marker) in zip(curves.items(), SERIES, strict=False):
        radii = [run.settings["eps"] for run in line]
        for key, what, dashes, own in _LINES:
            values = [100 * run.summary[key] for run in line]
            if any(value == value for value in values):
                label = f"{what}, {name}" if name else what
                colour = COLOURS[tone if name else own]
                axis.plot(radii, values, dashes, color=colour, marker=marker, markersize=4, label=label)
    axis.set_xlabel("eps")
    axis.set_ylabel("% of the examples")
    axis.set_ylim(-2, 102)
    axis.figure.legend(loc="outside upper left", ncols=1)
