"""What stayed open: how far each example is from a proof, and from a counterexample."""

from __future__ import annotations

import math
from collections.abc import Iterator

from verifier.certification.example import ExampleOutcome, ExampleRow
from verifier.report.blocks import Block, Cell, Exhibit, Gallery, Picture, Table, Text, label, number, plural, seconds
from verifier.report.pictures import Scale, as_image, picture
from verifier.report.section import section
from verifier.report.subjects import CertifyRun

#: lines of the table, and inputs drawn, at most
_MOST, _DRAWN = 100, 12


@section("undecided", "Hardest undecided examples", 70, CertifyRun)
def undecided(run: CertifyRun) -> Iterator[Block]:
    """Those furthest from a proof first."""
    rows = [row for row in run.rows if row.outcome is ExampleOutcome.UNKNOWN]
    if not rows:
        return
    rows.sort(key=lambda row: (_bound(row), row.index))
    shown = "" if len(rows) <= _MOST else f"; the {_MOST} furthest from a proof"
    yield Text(
        "The true smallest margin lies between the best bound and the best attack: an example is proved when the bound "
        "is above zero, and refuted when an attack is below."
    )
    yield Table(
        f"{plural(len(rows), 'example')} stayed undecided{shown}",
        ("#example", "#label", "#best bound", "#best attack", "#gap", "why", "#seconds"),
        [_line(row) for row in rows[:_MOST]],
    )
    yield from _inputs(run, rows[:_DRAWN], len(rows))


def _bound(row: ExampleRow) -> float:
    return -math.inf if row.margin is None else row.margin


def _line(row: ExampleRow) -> list[Cell]:
    bound, attack = row.margin, row.attack_margin
    gap = None if bound is None or attack is None else attack - bound
    why = "" if row.reason is None else row.reason.value
    if row.error:
        why = f"{why}: {row.error}"
    return [
        Cell(str(row.index), row.index), label(row.label), number(bound), number(attack), number(gap),
        Cell(why), seconds(row.seconds),
    ]  # fmt: skip


def _inputs(run: CertifyRun, rows: list[ExampleRow], every: int) -> Iterator[Block]:
    """The inputs, where they are there and are images; of so many in all."""
    found = [(row, x) for row in rows if (x := run.input_of(row)) is not None]
    images = [(row, image) for row, x in found if (image := as_image(x, run.pixels)) is not None]
    if not images:
        return
    clip = run.settings["clip"]
    scale = Scale.of(None if clip is None else tuple(clip), [image for _, image in images])
    exhibits = [
        Exhibit(f"example {row.index}" + (f", label {row.label}" if row.label >= 0 else ""),
                [Picture(picture(image, scale), f"input of example {row.index}", "input")])
        for row, image in images
    ]  # fmt: skip
    yield Gallery("Their inputs" if len(rows) == every else f"The inputs of the first {len(exhibits)}", exhibits)
