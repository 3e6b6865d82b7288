"""Accuracies over eps, drawn (extra `plot`: matplotlib)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: entry of `Report.summary` -> name and colour of its line
_LINES = {
    "clean_accuracy": ("clean", "tab:gray"),
    "attacked_accuracy": ("attacked", "tab:orange"),
    "verified_accuracy": ("verified", "tab:blue"),
}


def draw_accuracies(axis: Axes, points: Sequence[tuple[float, Mapping[str, Any]]], threat: str) -> None:
    """A line for each accuracy; between the verified and the attacked one lies what is undecided.

    Args:
        points: eps, ascending, and the summary of the report there.
    """
    from matplotlib.ticker import PercentFormatter

    radii = [eps for eps, _ in points]
    shares = {key: [summary[key] for _, summary in points] for key in _LINES}
    for key, (name, colour) in _LINES.items():
        if not all(map(math.isnan, shares[key])):  # a question without labels has no clean accuracy
            axis.plot(radii, shares[key], marker=".", color=colour, label=name)
    low, high = shares["verified_accuracy"], shares["attacked_accuracy"]
    axis.fill_between(radii, low, high, color="tab:blue", alpha=0.15, label="undecided")
    axis.set_ylim(0, 1)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_xlabel(f"eps ({threat})")
    axis.set_ylabel("share of the examples")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
