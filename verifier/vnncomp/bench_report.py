"""What a run over a list found: a table per network, what is wrong, and a cactus plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from verifier.vnncomp.bench import BenchRow

if TYPE_CHECKING:
    from rich.table import Table


def print_report(rows: Sequence[BenchRow], stderr: bool = False) -> list[BenchRow]:
    """Prints the table and, in red, what is wrong; returns the wrong ones."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=stderr)
    console.print(table(rows))
    wrong = [row for row in rows if row.wrong]
    for row in wrong:
        console.print(Text(f"WRONG: {row.name}: {row.wrong}", style="bold red"), soft_wrap=True)
    return wrong


def table(rows: Sequence[BenchRow]) -> Table:
    """A line per network and one for all: how many of each answer, seconds in all, median of the solved."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("network", "n", "sat", "unsat", "wrong", "unknown", "timeout", "error", "total s", "median s"):
        numbers = name != "network"
        made.add_column(name, justify="right" if numbers else "left", no_wrap=numbers, overflow="fold")
    networks = dict.fromkeys(row.network for row in rows)
    for network in networks:
        made.add_row(network, *_line([row for row in rows if row.network == network]))
    if len(networks) > 1:
        made.add_section()
        made.add_row("in all", *_line(rows))
    return made


def _line(rows: Sequence[BenchRow]) -> list[str]:
    right = [row for row in rows if not row.wrong]
    counts = [sum(row.status == word for row in right) for word in ("sat", "unsat")]
    others = [sum(row.status == word for row in right) for word in ("unknown", "timeout", "error")]
    wrong = len(rows) - len(right)
    solved = [row.seconds for row in rows if row.solved]
    middle = f"{median(solved):.2f}" if solved else "-"
    marked = f"[bold red]{wrong}[/]" if wrong else "0"
    return [
        str(len(rows)), *map(str, counts), marked, *map(str, others), f"{sum(r.seconds for r in rows):.1f}", middle,
    ]  # fmt: skip


def cactus(rows: Sequence[BenchRow], path: Path) -> None:
    """How many instances are solved (right answers only) by the time that each takes: one line per network, and all.

    Raises:
        InputError: matplotlib is not installed. OSError: the file cannot be written.
    """
    from verifier.comparison.plot import needs_matplotlib

    needs_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    networks = list(dict.fromkeys(row.network for row in rows))
    lines = {"all": list(rows)}
    if 1 < len(networks) <= 8:
        lines |= {network: [row for row in rows if row.network == network] for network in networks}
    for name, part in lines.items():
        times = sorted(row.seconds for row in part if row.solved)
        label = f"{name}: {len(times)} of {len(part)}"
        axis.step([0.0, *times], range(len(times) + 1), where="post", label=label, linewidth=2 if name == "all" else 1)
    axis.set_xlabel("seconds per instance")
    axis.set_ylabel("instances solved")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=120, format="png")
