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
