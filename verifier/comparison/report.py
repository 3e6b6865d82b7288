"""What a cross-check found: values of every row, gaps to the linear program, broken laws; a table, a CSV, a picture."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from verifier.comparison.laws import Violation
from verifier.comparison.method import REFERENCE
from verifier.comparison.plot import draw_gaps
from verifier.errors import InternalError
from verifier.files import text_replaced
from verifier.tables import as_html


@dataclass(frozen=True)
class MarginRows:
    """Which margin each row is: logit[label] - logit[other]."""

    first_index: int
    label: Tensor  # [B] int64
    other: Tensor  # [B, S] int64

    def name(self, example: int, row: int) -> str:
        """Of a row, for people."""
        label, other = int(self.label[example]), int(self.other[example, row])
        return f"example {self.first_index + example}, row {row} (class {label} against {other})"


@dataclass(frozen=True)
class Gap:
    """How far one method is below the linear program, over the rows that both have a value for."""

    median: float  #: NaN where there is no such row
    worst: float  #: the gap of largest size; negative: above the linear program
    rows: int
    proved: int  #: rows of the method that are above zero, of all that it has a value for
    seconds: float  #: median per row


@dataclass(frozen=True, repr=False)
class CrossCheck:
    """Values [B, S] of B examples' S rows by every method, on the same intermediate bounds."""

    rows: MarginRows
    values: Mapping[str, Tensor]  #: method -> [B, S] float64; NaN where it did not finish
    seconds: Mapping[str, Tensor]  #: method -> [B, S]: the row's share of the call that it was part of
    violations: tuple[Violation, ...]  #: rows that break a law beyond rounding; none, if all is well
    eps: float

    def __repr__(self) -> str:
        examples, rows = self.rows.other.shape
        return f"CrossCheck({examples} examples, {rows} rows each: {len(self.violations)} broken laws)"

    def gaps(self) -> dict[str, Gap]:
        """Per method, in the order of the table."""
        return {name: self._gap(name) for name in self.values}

    def _gap(self, name: str) -> Gap:
        own = self.values[name]
        reference = self.values.get(REFERENCE, torch.full_like(own, torch.nan))
        gap = (reference - own)[own.isfinite() & reference.isfinite()]
        seconds = float(self.seconds[name].median())
        proved = int((own > 0).sum())
        if len(gap) == 0:
            return Gap(math.nan, math.nan, 0, proved, seconds)
        return Gap(float(gap.quantile(0.5)), float(gap[gap.abs().argmax()]), len(gap), proved, seconds)

    def table(self) -> Table:
        """The gaps, for a terminal."""
        broken = f", {len(self.violations)} rows BREAK A LAW" if self.violations else ", all laws hold"
        table = Table(title=f"{self._title()}{broken}", title_justify="left")
        table.add_column("gap to the LP", no_wrap=True)
        for name in ("median", "worst", "rows", "above zero", "s per row"):
            table.add_column(name, justify="right")
        for name, gap in self.gaps().items():
            table.add_row(
                name, _number(gap.median), _number(gap.worst), str(gap.rows), str(gap.proved), f"{gap.seconds:.2g}"
            )
        return table

    def _title(self) -> str:
        examples, rows = self.rows.other.shape
        return f"eps {self.eps:g}, {examples} examples, {rows} rows each"

    def _repr_html_(self) -> str:
        rows = [(name, g.median, g.worst, g.rows, g.proved, g.seconds) for name, g in self.gaps().items()]
        broken = f"{len(self.violations)} rows BREAK A LAW" if self.violations else "all laws hold"
        columns = ("gap to the LP", "median", "worst", "rows", "above zero", "s per row")
        return as_html(f"{self._title()}, {broken}", columns, rows)

    def describe(self, violation: Violation) -> str:
        """One line that names the example, the row, both values and the law."""
        where = self.rows.name(violation.example, violation.row)
        excess = f"{violation.low:.9g} against {violation.high:.9g}, tolerance {violation.tolerance:.1e}"
        return f"{where}: {violation.law} is broken: {excess}"

    def check(self) -> None:
        """Raises InternalError, naming every row, where a law is broken."""
        if self.violations:
            raise InternalError("; ".join(self.describe(v) for v in self.violations))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """One line per row: its value and its seconds by every method; empty where there is none. Raises OSError."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["example", "row", "label", "other", *self.values, *(f"{name} seconds" for name in self.values)]
        )
        for example, others in enumerate(self.rows.other.tolist()):
            for row, other in enumerate(others):
                values, seconds = ([float(t[example, row]) for t in of.values()] for of in (self.values, self.seconds))
                shown = ["" if math.isnan(v) else repr(v) for v in values]
                index, label = self.rows.first_index + example, int(self.rows.label[example])
                writer.writerow([index, row, label, other, *shown, *(f"{s:.3g}" for s in seconds)])
        text_replaced(path, text.getvalue())

    def plot(self, path: str | os.PathLike[str], methods: Sequence[str] | None = None) -> None:
        """The gaps to the linear program as a PNG: which share of the rows has at most which, on a logarithmic axis.

        Args:
            methods: names of methods to draw; default every one that bounds from below.

        Raises:
            InputError: matplotlib (extra `plot`) is not installed. OSError: the file cannot be written.
        """
        draw_gaps({self._title(): self}, Path(path), methods)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"
