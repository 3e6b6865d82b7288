"""Drawings as SVG inside the page: matplotlib draws them, and the page's style sheet gives them their colours."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from verifier.comparison.plot import needs_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: what a thing is -> what it is drawn in; the style sheet has a colour of that name for light and for dark paper
COLOURS = {
    "ink": "#010203", "muted": "#040506", "line": "#070809", "paper": "#0a0b0c",
    "verified": "#0072b2", "misclassified": "#6b7280", "falsified": "#c44e00", "unknown": "#a67c00", "error": "#8a2f6b",
    "second": "#c44e01", "third": "#007a58", "fourth": "#8a2f6c",
}  # fmt: skip
#: of lines in one drawing, in turn: also told apart by dashes and markers
SERIES = (("verified", "-", "o"), ("second", "--", "s"), ("third", "-.", "^"), ("fourth", ":", "D"))

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 10, "axes.titlesize": 10, "legend.fontsize": 9,
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["ink"], "text.color": COLOURS["ink"], "xtick.color": COLOURS["muted"],
    "xtick.labelcolor": COLOURS["ink"], "ytick.color": COLOURS["muted"], "ytick.labelcolor": COLOURS["ink"],
    "axes.facecolor": "none", "figure.facecolor": "none", "savefig.facecolor": "none", "grid.color": COLOURS["line"],
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.linewidth": 0.6, "hatch.linewidth": 0.8, "legend.frameon": False,
    "font.family": "sans-serif", "text.parse_math": False,
}  # fmt: skip


def drawn(name: str, draw: Callable[[Axes], None], height: float = 2.9) -> str:
    """The SVG element of one drawing, the same text every time.

    Args:
        name: what its inner links begin with.
        draw: on axes 4.7 inches wide, so that texts can be read on a phone.
        height: in inches.

    Raises:
        InputError: matplotlib is not installed.
    """
    needs_matplotlib()
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display

    file = io.StringIO()
    settings: dict[Any, Any] = {**_SETTINGS, "svg.hashsalt": name}
    with rc_context(settings), _plain_logs():
        figure = Figure(figsize=(4.7, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _inlined(file.getvalue(), name)


def whole_numbers(axis: Axes) -> None:
    """Ticks of the vertical axis at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def logarithmic(axis: Axes, which: str, low: float, high: float) -> None:
    """One of both axes ("x", "y") logarithmic from low to high, its ticks written as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    place = getattr(axis, f"{which}axis")
    place.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 300 else (1.0,)))
    place.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    place.set_minor_formatter(NullFormatter())  # matplotlib's own writes formulas


@contextmanager
def _plain_logs() -> Iterator[None]:
    """Without matplotlib's remarks on fonts, which are the reader's."""
    import logging

    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _inlined(svg: str, name: str) -> str:
    """A document of matplotlib's as an element among others: colours by name, no style sheet, links of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'^(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'^(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    name = f"{name}-{hashlib.sha256(svg.encode()).hexdigest()[:8]}"  # of this drawing alone, on a page of many runs
    linked = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in linked else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    for what, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{what})")
    return re.sub(r"(font(?:-family)?: ?[^;\"]*?)'[^;\"]*'[^;\"]*", r"\1sans-serif", svg).strip()
