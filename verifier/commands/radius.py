"""`verifier radius`: how far inputs may move before the answer changes, from both sides. Light: no torch."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verifier.commands.inputs import InputOptions
from verifier.commands.options import CLIP, DEVICE, STAGES, THREAT, ModelOptions, PartOptions, limit_of
from verifier.commands.shared import check_target, exported, stage_names, time_limit, valid_range

if TYPE_CHECKING:
    from verifier.bracket import Radius


@dataclass(frozen=True, kw_only=True)
class RadiusOptions:
    """Which sets, and how closely and for how long radii are searched."""

    threat: Annotated[str, THREAT] = "linf"
    clip: Annotated[str, CLIP] = "none"
    stages: Annotated[str | None, STAGES] = None
    tolerance: Annotated[float, typer.Option(help="Relative width of a bracket to stop at.")] = 0.01
    most: Annotated[float, typer.Option(help="No radius above this is tried.")] = 1e3
    timeout: Annotated[float, limit_of("Seconds for everything")] = 600.0
    example_budget: Annotated[float, limit_of("Seconds per input and radius, after which it is unknown there")] = 10.0
    device: Annotated[str | None, DEVICE] = None
    csv: Annotated[Path | None, typer.Option(help="Write one line per input to this CSV file.")] = None
    quiet: Annotated[bool, typer.Option("--quiet", help="No notes on how the inputs were read.")] = False


def radius(network: ModelOptions, chosen: InputOptions, part: PartOptions, how: RadiusOptions) -> None:
    """Search for each input the largest eps that is proved and the smallest that is broken.

    By all stages, or those that --stages names. Prints a line per input; between the two numbers is what no stage
    decided, or what is narrower than --tolerance.
    """
    from rich.console import Console
    from rich.table import Table

    from verifier.api import DEFAULT_STAGES
    from verifier.certification.certify import input_precision
    from verifier.radius import certified_radius

    check_target("--csv", how.csv)
    clip = valid_range(how.clip)
    given, model = chosen.given(part, clip is not None, how.quiet), network.load()
    each = None if how.example_budget == float("inf") else how.example_budget
    found = certified_radius(
        model, given.x.to(input_precision(model)), threat=how.threat, label=given.labels, clip=clip,
        tolerance=how.tolerance, most=how.most, stages=stage_names(how.stages) or DEFAULT_STAGES, device=how.device,
        budget=time_limit(how.timeout), example_budget=each,
    )  # fmt: skip
    rows = _rows(found, given.first_index)
    if how.csv is not None:
        exported(how.csv, lambda path: _save(path, rows))
    table = Table(title=f"{how.threat}{'' if clip is None else f', clip {list(clip)}'}", title_justify="left")
    for name in _COLUMNS:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*map(str, row[:2]), _rounded(row[2], -1), _rounded(row[3], 1), *map(str, row[4:]))
    Console().print(table)


def _rounded(radius: float, direction: int) -> str:
    """Four digits, never more than is proved (direction -1), nor less than is broken (1)."""
    if not 0 < radius < math.inf:
        return f"{radius:g}"
    unit = 10.0 ** (math.floor(math.log10(radius)) - 3)
    return f"{(math.ceil if direction > 0 else math.floor)(radius / unit) * unit:.4g}"


_Row = tuple[int, int, float, float, str, str]
_COLUMNS = ("index", "label", "proved", "broken", "decided_by", "trust")


def _rows(found: Radius, first: int) -> list[_Row]:
    """Per input, the entries of _COLUMNS."""
    return [
        (
            first + i, int(found.label[i]), float(found.radius[i]), float(found.broken[i]),
            found.decided_by[i] or "-", getattr(found.trust[i], "name", "-"),
        )
        for i in range(len(found.label))
    ]  # fmt: skip


def _save(path: Path, rows: list[_Row]) -> None:
    from verifier.files import text_replaced

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(rows)
    text_replaced(path, text.getvalue())
