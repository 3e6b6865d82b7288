"""The picture of a cross-check (extra `plot`: matplotlib)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from verifier.comparison.method import REFERENCE
from verifier.errors import InputError

#: the fixed slopes are what the figure of the thesis shows
SHOWN = ("dual", "dual-adaptive", "dual-optimised")
#: gaps below this are rounding
LEAST = 1e-9


class Compared(Protocol):
    """What a cross-check found."""

    @property
    def values(self) -> Mapping[str, Tensor]:
        """Method -> value of every row [B, S]; NaN where there is none."""


def needs_matplotlib() -> None:
    """Raises InputError where it is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("a picture needs matplotlib: pip install 'rampart-verifier[plot]'")


def draw(reports: Mapping[str, Compared], path: Path, methods: Sequence[str] = SHOWN) -> None:
    """One panel per report: bounds against the linear program, one point per row and method, and where both are equal.

    Args:
        reports: title -> report. methods: the first is drawn first, and below the others.

    Raises:
        InputError: matplotlib is not installed. OSError: the file cannot be written.
    """
    needs_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display

    figure = Figure(figsize=(4.2 * len(reports), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(reports), squeeze=False)[0]
    for axis, (title, report) in zip(panels, reports.items(), strict=True):
        _scatter(axis, report, methods)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("linear program")
    panels[0].set_ylabel("bound with the same intermediate bounds")
    panels[0].legend(fontsize=8, loc="upper left")
    figure.savefig(path, dpi=120, format="png")


def draw_gaps(reports: Mapping[str, Compared], path: Path, methods: Sequence[str] | None = None) -> None:
    """One panel per report: which share of the rows has at most which gap to the linear program, on a logarithmic axis.

    The gap is the program's value less the bound. Gaps below `LEAST`, which are rounding, are drawn there.

    Args:
        reports: title -> report. methods: those to draw; default every one that bounds from below.

    Raises:
        InputError: matplotlib is not installed, or no method has rows that the program has as well. OSError: the file
            cannot be written.
    """
    needs_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display

    figure = Figure(figsize=(4.6 * len(reports) + 1.6, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(reports), squeeze=False, sharey=True)[0]
    drawn = 0
    for axis, (title, report) in zip(panels, reports.items(), strict=True):
        for name in _below(report) if methods is None else methods:
            drawn += _gaps(axis, report, name)
        axis.set_xscale("log")
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("linear program less bound")
        axis.grid(alpha=0.3)
    if not drawn:
        raise InputError("no method has a bound of a row that the linear program finished: there are no gaps to draw")
    panels[0].set_ylabel("share of rows with at most this gap")
    names = {label: line for axis in panels for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(names.values(), names.keys(), fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=120, format="png")


def _below(report: Compared) -> list[str]:
    return [name for name in report.values if name not in (REFERENCE, "exact", "attack")]


def _gaps(axis, report: Compared, name: str) -> int:  # type: ignore[no-untyped-def]
    """Draws one method; returns the number of its rows."""
    reference = report.values.get(REFERENCE)
    if reference is None or name not in report.values:
        return 0
    gap = (reference - report.values[name]).flatten()
    gap = gap[gap.isfinite()].clamp(min=LEAST).sort().values
    if len(gap):
        shares = [(k + 1) / len(gap) for k in range(len(gap))]
        axis.step([float(gap[0]), *gap.tolist()], [0.0, *shares], where="post", label=name)
    return len(gap)


def _scatter(axis, report: Compared, methods: Sequence[str]) -> None:  # type: ignore[no-untyped-def]
    reference = report.values[REFERENCE]
    known = reference.isfinite()
    for name in methods:
        axis.scatter(reference[known], report.values[name][known], s=10, alpha=0.6, linewidths=0, label=name)
    low, high = (float(end) for end in (reference[known].min(), reference[known].max())) if known.any() else (0.0, 1.0)
    axis.plot([low, high], [low, high], color="black", linewidth=0.8, label="equal", zorder=0)
    for (start, end), line in ((axis.get_ylim(), axis.axhline), (axis.get_xlim(), axis.axvline)):
        if start < 0 < end:
            line(0, color="gray", linewidth=0.5, zorder=0)
