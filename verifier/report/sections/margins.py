"""How far from zero the margins are: proved ones, open ones, and those that counterexamples reach."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from verifier.certification.example import ExampleOutcome
from verifier.report.blocks import Block, Figure, plural
from verifier.report.figures import COLOURS, drawn, whole_numbers
from verifier.report.section import section
from verifier.report.subjects import CertifyRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: what bars are filled with
_HATCHES = {"verified": "", "unknown": "////", "falsified": "xxxx"}
#: share of the values that the axis may leave out on either side, and bars, about
_TAIL, _BARS = 0.02, 24


@section("margins", "Margins", 50, CertifyRun)
def margins(run: CertifyRun) -> Iterator[Block]:
    """A histogram, where some margin is known."""
    values = _values(run)
    every = np.array([value for _, found in values.values() for value in found])
    if not every.size:
        return
    edges = bar_edges(every)
    outside = int(((every < edges[0]) | (every > edges[-1])).sum())
    known = ", ".join(f"{len(found)} {name}" for name, (_, found) in values.items() if found)
    more = "" if not outside else f" The outermost bars count {plural(outside, 'value')} beyond the axis."
    yield Figure(
        drawn("margins", lambda axis: _draw(axis, values, edges)),
        f"Histogram of the smallest margins from {every.min():.3g} to {every.max():.3g}: {known}.",
        "Smallest margin over the other classes, or the worst row of what was asked: the bound that was proved, or "
        "what an attack reached. A stage stops at the first proof, so that bars right above zero say no more than "
        f"that.{more}",
    )


def _values(run: CertifyRun) -> dict[str, tuple[str, list[float]]]:
    """What a bar is of -> its colour, and the finite margins."""
    broken = [row.attack_margin for row in run.rows if run.broken(row)]
    open_ = [row.margin for row in run.rows if row.outcome is ExampleOutcome.UNKNOWN]
    proved = [row.margin for row in run.rows if row.outcome is ExampleOutcome.VERIFIED]
    return {
        "verified: proved bound": ("verified", _finite(proved)),
        "unknown: best bound": ("unknown", _finite(open_)),
        "falsified: reached by attack": ("falsified", _finite(broken)),
    }


def _finite(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def bar_edges(values: np.ndarray) -> np.ndarray:  # [n], finite -> [bars + 1], rising
    """Ends of bars: zero is one of them, and there is a bar on either side of it that has values.

    All values are within, unless a few far ones would leave the others no more than a quarter of the axis.
    """
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    most = min(0.0, float(np.quantile(values, _TAIL))), max(0.0, float(np.quantile(values, 1 - _TAIL)))
    if high - low > 4 * (most[1] - most[0]) > 0:
        low, high = most
    width = ((high - low) or 1.0) / _BARS
    below = max(math.ceil(-low / width), int((values < 0).any()))
    above = max(math.ceil(high / width), int((values >= 0).any()))
    return width * np.arange(-below, above + 1)


def _draw(axis: Axes, values: dict[str, tuple[str, list[float]]], edges: np.ndarray) -> None:
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.zeros(len(middle))
    for name, (tone, found) in values.items():
        if found:
            counts, _ = np.histogram(np.clip(found, middle[0], middle[-1]), edges)
            axis.bar(
                middle, counts, width=edges[1] - edges[0], bottom=below, label=name, color=COLOURS[tone], linewidth=0.3,
                edgecolor=COLOURS["paper"], hatch=_HATCHES[tone],  # told apart without colours, too
            )  # fmt: skip
            below += counts
    axis.axvline(0, color=COLOURS["ink"], linewidth=1)
    axis.set_xlabel("margin")
    axis.set_ylabel("examples")
    axis.grid(False, axis="x")
    whole_numbers(axis)
    axis.figure.legend(loc="outside upper left", ncols=1)
