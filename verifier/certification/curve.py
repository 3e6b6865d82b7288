"""What a sweep over several radii has found: a table, accuracies over eps, each example's bracket, and exports."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from verifier.certification.accuracies import draw_accuracies
from verifier.certification.example import ExampleOutcome
from verifier.certification.identity import EFFORT, differences
from verifier.certification.report import Report
from verifier.certification.sharing import Source, shared
from verifier.comparison.plot import needs_matplotlib
from verifier.errors import InputError, StoreError
from verifier.files import json_text, text_replaced
from verifier.tables import tabular


def store_of(folder: Path, eps: float) -> Path:
    """The store of one radius in a sweep's folder."""
    return folder / f"eps-{eps!r}.sqlite"


def opened(folder: Path) -> dict[float, Source]:
    """The runs that are in a sweep's folder, by radius, in ascending order. Raises StoreError as `Report.open`."""
    found = [Source.open(path) for path in sorted(folder.glob("eps-*.sqlite"))]
    return {source.eps: source for source in sorted(found, key=lambda s: s.eps)}


@dataclass(frozen=True)
class Bracket:
    """What is known of one example over the radii of a sweep."""

    index: int
    proved: float | None  #: the largest radius at which it is VERIFIED; None: at none
    broken: float | None  #: the smallest at which it is FALSIFIED; None: at none


@dataclass(frozen=True)
class Sweep:
    """Reports on one question at several radii, in ascending order: a sequence of them, and what they say together."""

    reports: tuple[Report, ...]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Sweep:
        """The sweep in a folder, as far as it has come.

        Raises:
            StoreError: there is none, or a file in it is damaged, or about another model, other data or settings.
        """
        where = Path(folder).expanduser()
        if not where.is_dir():
            raise StoreError(f"there is no folder {where}")
        sources = tuple(opened(where).values())
        if not sources:
            raise StoreError(f"{where} holds no sweep: it has no file eps-*.sqlite")
        for source in sources[1:]:
            lines = _different(sources[0].report, source.report)
            if lines:
                raise StoreError("\n  ".join([f"{sources[0].path} and {source.path} are no sweep:", *lines]))
        return cls(tuple(source.report for source in sources))

    @property
    def eps(self) -> tuple[float, ...]:
        """The radii, ascending."""
        return tuple(float(report.meta["settings"]["eps"]) for report in self.reports)

    @property
    def complete(self) -> bool:
        """Whether every example is in at every radius."""
        return all(report.complete for report in self.reports)

    def __len__(self) -> int:
        return len(self.reports)

    def __iter__(self) -> Iterator[Report]:
        return iter(self.reports)

    def __getitem__(self, place: int) -> Report:
        return self.reports[place]

    def at(self, eps: float) -> Report:
        """The report of one radius. Raises InputError where the sweep does not have it."""
        if eps not in self.eps:
            raise InputError(f"the sweep has no eps {eps:g}; it has {', '.join(f'{e:g}' for e in self.eps)}")
        return self.reports[self.eps.index(eps)]

    def curve(self) -> list[dict[str, Any]]:
        """Per radius its `eps`, the counts and shares of `Report.summary`, and how many rows other radii decided.

        `shared` counts the rows that follow from another radius: from a proof at a larger one, or from a counterexample
        that lies in the set. Shares are numbers in [0, 1], NaN of no examples; seconds are wall time.
        """
        points = []
        for eps, report in zip(self.eps, self.reports, strict=True):
            summary = report.summary()
            point = {"eps": eps, **{key: summary[key] for key in _COLUMNS if key in summary}}
            points.append({**point, "shared": sum(map(shared, report.rows()))})
        return points

    def brackets(self) -> list[Bracket]:
        """Per example the largest radius at which it is proved and the smallest at which it is broken, by index."""
        proved: dict[int, float] = {}
        broken: dict[int, float] = {}
        indices: set[int] = set()
        for eps, report in zip(self.eps, self.reports, strict=True):
            for row in report.rows():
                indices.add(row.index)
                if row.outcome is ExampleOutcome.VERIFIED:
                    proved[row.index] = eps
                elif row.outcome is ExampleOutcome.FALSIFIED:
                    broken.setdefault(row.index, eps)
        return [Bracket(index, proved.get(index), broken.get(index)) for index in sorted(indices)]

    def table(self) -> Table:
        """One line per radius, for a terminal."""
        points = self.curve()
        counts = ("undecided", "errors", "shared") if any(p["errors"] for p in points) else ("undecided", "shared")
        table = Table(title=self._title(), title_justify="left")
        for name in ("eps", "clean", "attacked", "verified", *counts, "seconds"):
            table.add_column(name, justify="right", no_wrap=True)
        for p in points:
            shares = (_percent(p[key]) for key in ("clean_accuracy", "attacked_accuracy", "verified_accuracy"))
            table.add_row(f"{p['eps']:g}", *shares, *(str(p[key]) for key in counts), f"{p['seconds']:.2f}")
        return table

    def _title(self) -> str:
        settings = self.reports[0].meta["settings"]
        given = [
            f"{k} {settings[k]}"
            for k in ("threat", "clip", "semantics", "question")
            if settings.get(k) not in (None, "real")
        ]
        total = self.reports[0].meta["examples"]
        missing = "" if self.complete else " - not complete yet"
        return f"{', '.join([*given, f'{total} examples'])}{missing}"

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """One line per radius, with the entries of `curve`. Written whole or not at all. Raises OSError."""
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.curve())
        text_replaced(path, text.getvalue())

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """The settings in common, `curve` and `brackets`. Written whole or not at all. Raises OSError.

        NaN and what there is not are null.
        """
        text_replaced(path, self.json())

    def json(self) -> str:
        """The text of `to_json`."""
        brackets = [{"index": b.index, "proved": b.proved, "broken": b.broken} for b in self.brackets()]
        return json_text({"about": _about(self.reports[0]), "curve": self.curve(), "brackets": brackets})

    def to_latex(self) -> str:
        """A table for a paper (package booktabs): one line per radius, shares in per cent."""

        def percent(share: float) -> str:
            return "--" if math.isnan(share) else rf"{100 * share:.1f}\,\%"

        head = (r"$\epsilon$", "clean", "attacked", "verified")
        accuracies = [f"{name}_accuracy" for name in head[1:]]
        rows = [[f"{p['eps']:.4g}", *(percent(p[key]) for key in accuracies)] for p in self.curve()]
        return tabular("rrrr", head, rows)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Verified and attacked accuracy over eps, as a picture (extra `plot`).

        Raises:
            InputError: matplotlib is not installed. OSError: the file cannot be written.
        """
        needs_matplotlib()
        from matplotlib.figure import Figure  # no pyplot: nothing global, no display

        figure = Figure(figsize=(6, 4), layout="constrained")
        points = [(point["eps"], point) for point in self.curve()]
        draw_accuracies(figure.subplots(), points, self.reports[0].meta["settings"]["threat"])
        figure.savefig(path, dpi=120)


_COLUMNS = (
    "eps",
    "examples",
    "clean_accuracy",
    "attacked_accuracy",
    "verified_accuracy",
    "robust_error",
    "undecided",
    "errors",
    "shared",
    "seconds",
)


def _different(a: Report, b: Report) -> list[str]:
    """One line for all in which two runs ask different things, but for the radius."""
    lines = differences(a.meta, b.meta, leave_out=("eps", *EFFORT))
    return lines or ["the examples are not the same"] * (a.meta["data"] != b.meta["data"])


def _about(report: Report) -> dict[str, Any]:
    """What the runs of a sweep have in common."""
    meta = report.meta
    settings = {key: value for key, value in meta["settings"].items() if key != "eps"}
    return {"model": meta["model"], "data": meta["data"], "examples": meta["examples"], **settings}


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.2f} %"
